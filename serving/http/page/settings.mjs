// The fields of a request that the controls say.

const NUMBERS = ["max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty"];

export function settings(element) {
  const fields = {};
  for (const name of NUMBERS) fields[name] = Number(element(name).value);
  if (element("seed").value !== "") fields.seed = Number(element("seed").value);
  if (element("stop_at").value !== "") fields.stop = [element("stop_at").value];
  return fields;
}

// The first control whose value cannot be, as a message; null if there is none.
export function mistake(element) {
  for (const control of element("settings").querySelectorAll("input")) {
    if (!control.checkValidity()) {
      const name = control.labels[0].textContent;
      control.focus();
      return `${name}: ${control.validationMessage}`;
    }
  }
  return null;
}

export function asked(kind, element, most) {
  if (!element("probabilities").checked) return {};
  return kind === "chat" ? { logprobs: true, top_logprobs: most } : { logprobs: most };
}
