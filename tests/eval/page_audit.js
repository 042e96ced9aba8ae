/* The body of a function: what on this page cannot be read or found as it is drawn now, a line each.

   Contrast as WCAG 2 defines it, of computed colours on computed grounds; a name for all that can be worked with;
   headings without a gap; header cells with their scope; pictures that say what they show or are hidden. */
const found = [];
const LEAST = 4.5;

const channels = (colour) => {
  const [r, g, b, alpha = 1] = colour.match(/[\d.]+/g).map(Number);
  return colour.startsWith("color(") ? [255 * r, 255 * g, 255 * b, alpha] : [r, g, b, alpha];
};
const linear = (part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4);
const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const over = (top, ground) => ground.map((part, k) => top[k] * top[3] + part * (1 - top[3]));

function ancestors(element) {
  const chain = [];
  for (let one = element; one; one = one.parentElement) chain.unshift(getComputedStyle(one));
  return chain;
}

function contrast(element) {
  const chain = ancestors(element);
  const ground = chain.reduce((below, style) => over(channels(style.backgroundColor), below), [255, 255, 255]);
  const style = chain.at(-1);
  const ink = channels(element instanceof SVGElement ? style.fill : style.color);
  ink[3] *= chain.reduce((product, { opacity }) => product * Number(opacity), 1);
  const [low, high] = [luminance(over(ink, ground)), luminance(ground)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

const what = (element) => `${element.tagName} ${element.id || element.getAttribute("class") || ""}`.trim();
const seen = (element) => element.checkVisibility() && !element.closest("noscript, .hidden-words, .skip");
const all = (selector) => [...document.querySelectorAll(selector)].filter(seen);
const ownText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());

const read = all("body *").filter((element) => ownText(element) && !element.closest("script, style, title"));
if (read.length < 50) found.push(`only ${read.length} texts are shown`);
for (const element of read) {
  const ratio = contrast(element);
  if (!(ratio >= LEAST)) found.push(`contrast ${ratio.toFixed(2)}: ${what(element)} "${element.textContent.slice(0, 30)}"`);
}
for (const element of all("a, button, input, select, summary, [tabindex]")) {
  const label = element.ariaLabel || element.getAttribute("aria-labelledby") || [...(element.labels ?? [])].length;
  if (!label && !element.textContent.trim()) found.push(`no name: ${what(element)}`);
}
let level = 0;
for (const heading of all("h1, h2, h3, h4, h5, h6")) {
  const next = Number(heading.tagName[1]);
  if (next > level + 1) found.push(`h${next} after h${level}: ${heading.textContent}`);
  level = next;
}
for (const table of all("table")) {
  if (table.querySelector("th:not([scope])") || !table.querySelector("tbody th")) found.push(`no scope: ${what(table)}`);
}
for (const picture of all("svg")) {
  if (picture.ariaHidden !== "true" && !picture.ariaLabel) found.push(`no name: ${what(picture)} in ${what(picture.parentElement)}`);
}
const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
if (new Set(ids).size < ids.length) found.push("an id occurs twice");
if (!document.documentElement.lang) found.push("no language");
return found;
