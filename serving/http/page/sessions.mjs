// Conversations that the server keeps, by name.

import { bytes } from "./words.mjs";

export class Sessions {
  // tell: shows a text for people, or an error.
  constructor(server, element, tell) {
    this.server = server;
    this.element = element;
    this.tell = tell;
    element("fork").addEventListener("click", () => this.#try(() => this.fork()));
    element("delete").addEventListener("click", () => this.#try(() => this.delete()));
    element("new-session").addEventListener("click", () => this.#try(() => this.begin()));
    element("session").addEventListener("change", () => this.show());
  }

  get name() {
    return this.element("session").value;
  }

  // The sessions there are; the panel stays hidden where the server keeps none.
  async refresh(chosen = this.name) {
    let list;
    try {
      list = (await this.server.json("GET", "/v1/sessions")).data;
    } catch {
      this.element("sessions").hidden = true;
      return;
    }
    this.known = new Map(list.map((one) => [one.id ?? one.name, one]));
    const names = [...this.known.keys()];
    if (chosen && !this.known.has(chosen)) names.push(chosen); // begun, and not asked yet
    const options = ["", ...names].map((name) => new Option(name || "none", name, false, name === chosen));
    this.element("session").replaceChildren(...options);
    this.element("sessions").hidden = false;
    this.show();
  }

  show() {
    const one = this.known?.get(this.name);
    this.element("fork").disabled = this.element("delete").disabled = !one;
    this.element("session-size").textContent = one ? `${bytes(one.bytes)} on disk` : this.name ? "new" : "";
    this.element("session").dispatchEvent(new Event("shown"));
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
