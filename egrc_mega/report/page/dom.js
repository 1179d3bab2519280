// Elements, and numbers as people read them. Text goes into the page by append() and nothing else: it is never markup.

const SVG = "http://www.w3.org/2000/svg";
const DATA = JSON.parse(document.getElementById("data").textContent);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const small = (...children) => el("small", {}, ...children);
const counted = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many || one + "s"}`;

function card(title, caption, ...children) {
  return el("div", { class: "card" }, title ? el("h3", {}, title) : null, caption ? small(caption) : null, ...children);
}

// rows of cells, each a text or an element; the first column is the row's head
function table(head, rows, label) {
  const body = rows.map((row) => el("tr", {}, row.map((cell, i) => el(i ? "td" : "th", i ? {} : { scope: "row" }, cell))));
  const heads = el("thead", {}, el("tr", {}, head.map((cell) => el("th", { scope: "col" }, cell))));
  // a table that is wider than the screen is scrolled, with the keyboard too
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label || head[0] || "table" },
    el("table", {}, heads, el("tbody", {}, body)));
}

// an option for all, and one for each value; what was chosen stays chosen where it is still there
function fillSelect(select, all, values) {
  const chosen = values.includes(select.value) ? select.value : "";
  select.replaceChildren(el("option", { value: "" }, all), ...values.map((value) => el("option", { value }, value)));
  select.value = chosen;
}

function number(value) {
  if (value === null || value === undefined) return "-";
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size >= 1e5 && !Number.isInteger(value)) return value.toExponential(2);
  if (size >= 100) return value.toLocaleString("en", { maximumFractionDigits: Number.isInteger(value) ? 0 : 1 });
  if (size >= 1e-3) return String(Number(value.toPrecision(3)));
  return value.toExponential(1).replace(".0e", "e").replace("e-", "e\u2212");
}

// always one digit behind the point, so that a figure and its interval stand in one form
const tokens = (value) => (value === null || value === undefined ? "-" : value.toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 }));

const percent = (value, digits = 1) => (value === null || value === undefined ? "-" : `${(100 * value).toFixed(digits)}\u00a0%`);

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "-";
  if (seconds < 60) return `${number(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${Math.round(seconds % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// a figure with its interval below it
function estimate(figure, show) {
  if (!figure || figure[0] === null) return "-";
  const parts = [show(figure[0])];
  if (figure.length > 2) parts.push(el("br"), small(`${show(figure[1])} – ${show(figure[2])}`));
  return el("span", {}, parts);
}
