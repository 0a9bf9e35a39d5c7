// The page: asks the server, shows what comes, and what it costs.

import { Server } from "./server.mjs";
import { Sessions } from "./sessions.mjs";
import { asked, mistake, settings } from "./settings.mjs";
import { span, tokensOf, watch } from "./tokens.mjs";
import { bytes, count } from "./words.mjs";

const element = (id) => document.getElementById(id);
const server = new Server(() => element("key").value.trim());
const sessions = new Sessions(server, element, tell, held);
const messages = []; // of the chat, as the API wants them
let kind = "complete";
let about = { chats: true, text: true, most_logprobs: 5 };
let running = null; // an AbortController, while an answer comes
let cached = 0;

function tell(text, wrong = "") {
  element("said").textContent = text;
  element("mistake").textContent = wrong;
}

function tokens(read, known) {
  cached = known;
  element("tokens-seen").textContent = count(read);
  element("tokens-cached").textContent = count(known);
}

// Asking

async function ask(goesOn) {
  if (running) return;
  const wrong = mistake(element);
  if (wrong) return tell("", wrong);
  const text = element("ask").value;
  if (!goesOn && !text.trim()) {
    element("ask").focus();
    return tell("", "There is nothing to ask: write something first.");
  }
  running = new AbortController();
  buttons();
  tell("Generating…");
  try {
    const written = await (kind === "chat" ? chat(text, running.signal) : complete(text, goesOn, running.signal));
    tell(`Done: ${count(written)} tokens.`);
  } catch (error) {
    if (error.name === "AbortError") tell("Stopped.");
    else tell("", error.message);
  } finally {
    running = null;
    buttons();
    await sessions.refresh().catch((error) => tell("", error.message));
  }
}

async function complete(text, goesOn, signal) {
  const answer = element("completion");
  const prompt = goesOn ? answer.textContent : text;
  if (!goesOn) {
    const before = document.createElement("span");
    before.className = "asked";
    before.textContent = text;
    answer.replaceChildren(before);
  }
  const session = sessions.name;
  const body = { prompt, ...settings(element), ...asked(kind, element, about.most_logprobs) };
  if (session) Object.assign(body, { session, prompt: goesOn ? "" : text });
  return receive("/v1/completions", body, answer, signal);
}

async function chat(text, signal) {
  const session = sessions.name;
  const turn = { role: "user", content: text };
  add(turn);
  const place = add({ role: "assistant", content: "" });
  const { max_tokens, ...fields } = settings(element);
  const body = { ...fields, max_completion_tokens: max_tokens, ...asked(kind, element, about.most_logprobs) };
  body.messages = session ? [turn] : [...messages, turn];
  if (session) body.session = session;
  element("ask").value = "";
  try {
    return await receive("/v1/chat/completions", body, place, signal);
  } finally {
    messages.push(turn, { role: "assistant", content: place.textContent });
  }
}

// Shows an answer as it comes in `place`; returns how many tokens it has.
async function receive(path, body, place, signal) {
  let began = null;
  let written = 0;
  place.classList.add("busy");
  try {
    for await (const chunk of server.stream(path, body, signal)) {
      for (const choice of chunk.choices) {
        began ??= performance.now();
        place.append(...tokensOf(choice).map(span));
      }
      if (chunk.usage) {
        written = chunk.usage.completion_tokens;
        const known = chunk.usage.prompt_tokens_details?.cached_tokens ?? 0;
        tokens(chunk.usage.prompt_tokens + written, known);
        const seconds = (performance.now() - began) / 1000;
        element("speed").textContent = seconds > 0 ? `${count(Math.round(written / seconds))} tokens/s` : "–";
      }
      const box = place.closest(".answer, #messages");
      box.scrollTop = box.scrollHeight;
    }
  } finally {
    place.classList.remove("busy");
  }
  return written;
}

function add(message) {
  const item = document.createElement("li");
  item.className = message.role;
  const who = document.createElement("span");
  who.className = "who";
  who.textContent = message.role === "user" ? "You" : "Model";
  const content = document.createElement("div");
  content.textContent = message.content;
  item.append(who, content);
  element("messages").append(item);
  return content;
}

function clear() {
  messages.length = 0;
  element("messages").replaceChildren();
  element("completion").replaceChildren();
  tokens(0, 0);
  tell("");
  buttons();
}

// The chosen session is another, or has gone on.
let shown = "";
function held(session) {
  if (sessions.name !== shown) {
    shown = sessions.name;
    clear();
    for (const message of session?.messages ?? []) add(message);
  }
  if (session) tokens(session.tokens, cached);
  buttons();
}

function buttons() {
  const busy = running !== null;
  element("send").disabled = busy || (kind === "chat" && !about.chats) || !about.text;
  element("stop").disabled = !busy;
  element("clear").disabled = busy;
  element("again").hidden = kind === "chat";
  element("again").disabled = busy || !element("completion").textContent || Boolean(sessions.name);
}

// Completion or chat

function choose(chosen) {
  kind = chosen;
  for (const name of ["complete", "chat"]) {
    const tab = element(`tab-${name}`);
    tab.setAttribute("aria-selected", String(name === kind));
    tab.tabIndex = name === kind ? 0 : -1;
    element(`panel-${name}`).hidden = name !== kind;
  }
  element("ask-label").textContent = kind === "chat" ? "Message" : "Prompt";
  element("send").textContent = kind === "chat" ? "Send" : "Generate";
  if (kind === "chat" && !about.chats) tell("", "This model knows no chat format: ask for a completion.");
  else tell("");
  buttons();
}

for (const name of ["complete", "chat"]) {
  element(`tab-${name}`).addEventListener("click", () => choose(name));
}
element("tabs").addEventListener("keydown", (event) => {
  if (!["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
  choose(kind === "chat" ? "complete" : "chat");
  element(`tab-${kind}`).focus();
  event.preventDefault();
});

// The rest of the controls

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask(false);
});
element("again").addEventListener("click", () => ask(true));
element("stop").addEventListener("click", () => running?.abort());
element("clear").addEventListener("click", clear);
element("key").addEventListener("change", greet);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask(false);
});
watch(element("completion"), element("token"));
watch(element("messages"), element("token"));

// The server

async function greet() {
  try {
    about = await server.json("GET", "/page/about.json");
  } catch (error) {
    element("server").textContent = error.message;
    setTimeout(greet, 2000);
    return;
  }
  document.title = `${about.model} – Griffin playground`;
  element("model").textContent = about.model;
  element("state-size").textContent = bytes(about.state_bytes);
  if (about.grows) element("memory-note").textContent = "This model has global attention: its state is as large as its longest context.";
  if (!about.text) tell("", "This model has no tokenizer: it takes token ids only, which this page does not.");
  buttons();
  sessions.kept = about.sessions;
  await sessions.refresh().catch((error) => tell("", error.message));
  if (!watching) watchHealth();
}

let watching = false;
async function watchHealth() {
  watching = true;
  try {
    const health = await fetch("/health").then((response) => response.json());
    const busy = health.slots === undefined ? "" : `: ${health.running} of ${health.slots} slots, ${health.waiting} waiting`;
    element("server").textContent = `${health.status === "ok" ? "ready" : health.status}${busy}`;
  } catch {
    element("server").textContent = "The server does not answer.";
  }
  setTimeout(watchHealth, document.hidden ? 30000 : 5000);
}

buttons();
greet();
