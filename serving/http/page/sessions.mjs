// Conversations that the server keeps, by name.

import { bytes } from "./words.mjs";

export class Sessions {
  // tell: shows a text for people, or an error.
  // held: is given what the chosen session holds, or null.
  constructor(server, element, tell, held) {
    this.kept = false;
    this.held = held;
    this.server = server;
    this.element = element;
    this.tell = tell;
    element("fork").addEventListener("click", () => this.#try(() => this.fork()));
    element("delete").addEventListener("click", () => this.#try(() => this.delete()));
    element("new-session").addEventListener("click", () => this.#try(() => this.begin()));
    element("session").addEventListener("change", () => this.#try(() => this.show()));
  }

  get name() {
    return this.element("session").value;
  }

  // The sessions there are; the panel stays hidden where the server keeps none.
  async refresh(chosen = this.name) {
    if (!this.kept) return;
    const list = (await this.server.json("GET", "/v1/sessions")).data;
    this.known = new Map(list.map((one) => [one.id, one]));
    const names = [...this.known.keys()];
    if (chosen && !this.known.has(chosen)) names.push(chosen); // begun, and not asked yet
    const options = ["", ...names].map((name) => new Option(name || "none", name, false, name === chosen));
    this.element("session").replaceChildren(...options);
    this.element("sessions").hidden = false;
    await this.show();
  }

  // What the chosen one holds goes to `held`.
  async show() {
    const name = this.name;
    const there = this.known.has(name);
    this.element("fork").disabled = this.element("delete").disabled = !there;
    const one = there ? await this.server.json("GET", `/v1/sessions/${encodeURIComponent(name)}`) : null;
    if (name !== this.name) return; // another was chosen meanwhile
    const learned = one?.adaptation ? `, learned ${one.adaptation.version} times` : "";
    this.element("session-size").textContent = one ? `${bytes(one.bytes)} on disk${learned}` : name ? "new" : "";
    this.held(one);
  }

  async begin() {
    await this.refresh(this.#newName());
    this.tell(`The next request begins session ${this.name}.`);
  }

  async fork() {
    const [from, to] = [this.name, this.#newName()];
    await this.server.json("POST", `/v1/sessions/${encodeURIComponent(from)}/fork`, { name: to });
    await this.refresh(to);
    this.tell(`Session ${to} is a copy of ${from}.`);
  }

  async delete() {
    const name = this.name;
    await this.server.json("DELETE", `/v1/sessions/${encodeURIComponent(name)}`);
    await this.refresh("");
    this.tell(`Session ${name} is deleted.`);
  }

  #newName() {
    const field = this.element("session-name");
    const name = field.value.trim();
    if (!name) {
      field.focus();
      throw new Error("Give the session a new name first.");
    }
    field.value = "";
    return name;
  }

  async #try(action) {
    try {
      this.tell("");
      await action();
    } catch (error) {
      this.tell("", error.message);
    }
  }
}
