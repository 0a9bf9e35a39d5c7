// The server's API: JSON, and answers as streams of events.

export class Refused extends Error {}

export class Server {
  constructor(key) {
    this.key = key; // a function: what is in the field now
  }

  async json(method, path, body) {
    const response = await this.#send(method, path, body);
    return response.status === 204 ? null : response.json();
  }

  // Each chunk of an answer, until it ends or `signal` stops it.
  async *stream(path, body, signal) {
    const asked = { ...body, stream: true, stream_options: { include_usage: true } };
    const response = await this.#send("POST", path, asked, signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        if (!event.startsWith("data: ") || event === "data: [DONE]") continue;
        const chunk = JSON.parse(event.slice(6));
        if (chunk.error) throw new Refused(chunk.error.message);
        yield chunk;
      }
    }
  }

  async #send(method, path, body, signal) {
    const headers = {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (this.key()) headers.Authorization = `Bearer ${this.key()}`;
    const content = body === undefined ? undefined : JSON.stringify(body);
    const response = await fetch(path, { method, headers, body: content, signal });
    if (response.ok) return response;
    const answer = await response.json().catch(() => null);
    throw new Refused(answer?.error?.message ?? `the server answers with ${response.status}`);
  }
}
