// Elements are made here and nowhere else: what a host or a run says becomes text, never markup.

/** An element. `properties`: attributes; `on…` a listener, `class`, true or false as attributes without a value; null: left out. */
export function el(tag, properties = {}, ...children) {
  const svg = tag === "svg" || tag === "path" || tag === "circle";
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((each) => each !== null && each !== undefined && each !== false));
  return element;
}

/** The JSON of an address below the page's own; throws an Error with the server's words. */
export async function getJson(path, options = {}) {
  const answer = await fetch(path, options);
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error([said.error ?? `The server answered ${answer.status}`, said.hint].filter(Boolean).join(" – "));
  return said;
}

export function post(path, body = {}) {
  const headers = { "Content-Type": "application/json", "X-Remoterun": "1" };
  return getJson(path, { method: "POST", headers, body: JSON.stringify(body) });
}

/** A button that acts at its second click within 4 seconds; in between it shows `question`. */
export function confirmed(text, question, act, properties = {}) {
  let timer = 0;
  const calm = () => { clearTimeout(timer); timer = 0; button.textContent = text; button.classList.remove("asks"); };
  const button = el("button", { type: "button", ...properties, onblur: calm, onclick: () => {
    if (timer) { calm(); act(button); return; }
    button.textContent = question;
    button.classList.add("asks");
    timer = setTimeout(calm, 4000);
  } }, text);
  return button;
}
