// What every section is made of. Text reaches the page as text nodes alone, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const MINUS = "\u2212";

function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

function section(id, title, ...children) {
  return el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), children);
}

function number(value, digits = 3, { sign = false } = {}) {
  if (value === null || value === undefined) return "\u2013";
  const text = Math.abs(value).toFixed(digits);
  const zero = Number(text) === 0;
  return (value < 0 && !zero ? MINUS : sign && !zero ? "+" : "") + text;
}

function interval(low, high, options) {
  return low === null || high === null ? "\u2013" : `${number(low, 3, options)} to ${number(high, 3, options)}`;
}

function probability(value) {
  return value === null ? "\u2013" : value < 0.001 ? "< 0.001" : value.toFixed(3);
}

function count(amount, noun) {
  return `${amount.toLocaleString("en")} ${noun}${amount === 1 ? "" : "s"}`;
}

// A name that may be broken behind commas and equals signs.
function broken(name) {
  return name.split(/(?<=[,=])/).flatMap((piece, k) => (k ? [el("wbr"), piece] : [piece]));
}

function subscript(t) {
  return [...String(t)].map((digit) => String.fromCharCode(0x2080 + Number(digit))).join("");
}

// Places on a line of numbers, in percent of its width, with a margin on both sides.
function scaleOf(values) {
  const finite = values.filter((value) => Number.isFinite(value));
  let low = finite.reduce((one, other) => Math.min(one, other), Infinity);
  let high = finite.reduce((one, other) => Math.max(one, other), -Infinity); // not of all as arguments, which have a limit
  if (!finite.length || low === high) [low, high] = [(finite[0] ?? 0.5) - 0.5, (finite[0] ?? 0.5) + 0.5];
  const at = (value) => 4 + (92 * (Math.min(high, Math.max(low, value)) - low)) / (high - low);
  return { low, high, at };
}

function percent(value) {
  return `${value.toFixed(2)}%`;
}
