// The data of the page, and how all scripts make elements: never from text that is HTML.
const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// A name that may be broken after each slash.
function breakable(name) {
  const parts = name.split("/");
  return parts.flatMap((part, i) => (i < parts.length - 1 ? [part + "/", element("wbr")] : [part]));
}

function readable(size) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${size.toFixed(unit === 0 || size >= 100 ? 0 : 1)} ${units[unit]}`;
}

function bars(before, after, largest) {
  const width = (size) => `width: ${largest ? (100 * size) / largest : 0}%`;
  return element("div", { class: "bars", "aria-hidden": "true" },
    element("i", { class: "before", style: width(before) }),
    element("i", { class: "after", style: width(after) }));
}

const natural = new Intl.Collator("en", { numeric: true });

// Calls back a little after the last keystroke, so that typing stays fluent in long lists.
function onInput(field, callback) {
  let timer;
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(callback, 80);
  });
}
