// Elements by id and elements made of text: nothing that the server sends ever becomes markup.

export const byId = (id) => document.getElementById(id);

/** An element with properties (data-, aria- and class by attribute) and children, strings as text. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "class" || name === "for") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function press(button, on) {
  button.setAttribute("aria-pressed", String(Boolean(on)));
}

export function notice(words, action = null) {
  const bar = byId("notice");
  bar.replaceChildren(el("span", {}, words));
  const buttons = el("span");
  if (action) buttons.append(el("button", { type: "button", onclick: () => { bar.hidden = true; action.run(); } }, action.label), " ");
  buttons.append(el("button", { type: "button", onclick: () => { bar.hidden = true; } }, "Close"));
  bar.append(buttons);
  bar.hidden = false;
}
