// Tokens with their probabilities: as spans of an answer, and one of them in full.

const MOST_SURPRISING = 10; // nats, from which on the colour is full

// [{ text, name, logprob, top: [[name, logprob], ...] }] of one chunk's choice, in either schema.
// A token that is half a character has no text of its own; what is left goes with the last one.
export function tokensOf(choice) {
  const text = choice.text ?? choice.delta?.content ?? "";
  const tokens = choice.logprobs?.content ? fromChat(choice.logprobs.content) : fromCompletion(choice.logprobs);
  let place = 0;
  for (const token of tokens) {
    const own = text.startsWith(token.name, place) ? token.name : "";
    token.text = own;
    place += own.length;
  }
  if (!tokens.length) return text ? [{ text, name: text, logprob: null, top: [] }] : [];
  tokens.at(-1).text += text.slice(place);
  return tokens;
}

function fromCompletion(logprobs) {
  return (logprobs?.tokens ?? []).map((name, i) => ({
    name,
    logprob: logprobs.token_logprobs[i],
    top: sorted(Object.entries(logprobs.top_logprobs?.[i] ?? {})),
  }));
}

function fromChat(content) {
  return content.map((one) => ({
    name: one.token,
    logprob: one.logprob,
    top: sorted(one.top_logprobs.map((top) => [top.token, top.logprob])),
  }));
}

const sorted = (top) => top.sort((a, b) => b[1] - a[1]);

export function span(token) {
  const element = document.createElement("span");
  element.textContent = token.text;
  if (token.logprob === null) return element;
  element.className = "token";
  element.tabIndex = -1;
  element.style.setProperty("--surprise", String(Math.min(1, -token.logprob / MOST_SURPRISING)));
  element.token = token;
  return element;
}

// Shows a token's likeliest alternatives in `panel`.
export function describe(token, panel) {
  const table = document.createElement("table");
  const caption = table.createCaption();
  caption.append(code(token.name), ` ${percent(token.logprob)}`);
  for (const [name, logprob] of token.top) {
    const row = table.insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    head.append(code(name));
    row.append(head);
    row.insertCell().textContent = percent(logprob);
    if (name === token.name) row.className = "chosen";
  }
  panel.replaceChildren(table);
}

// Pointing at a token, and arrow keys in `answer`, show it in `panel`.
export function watch(answer, panel) {
  const show = (event) => event.target.token && describe(event.target.token, panel);
  answer.addEventListener("mouseover", show);
  answer.addEventListener("focusin", show);
  answer.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const tokens = [...answer.querySelectorAll(".token")];
    if (!step || !tokens.length) return;
    const place = tokens.indexOf(document.activeElement);
    const next = place < 0 ? (step > 0 ? 0 : tokens.length - 1) : place + step;
    tokens[Math.min(Math.max(next, 0), tokens.length - 1)].focus();
    event.preventDefault();
  });
}

export function percent(logprob) {
  const value = 100 * Math.exp(logprob);
  return `${value >= 0.1 ? value.toFixed(1) : value.toExponential(0)} %`;
}

const visible = (name) => name.replaceAll("\n", "⏎").replaceAll(" ", "␣") || "(nothing)";

function code(name) {
  const element = document.createElement("code");
  element.textContent = visible(name);
  return element;
}
