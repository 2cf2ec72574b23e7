// The page: its sections in order, and the way to each.
function figuresSection() {
  const figures = data.figures.drawings.map((one) => el("figure", { class: "drawing" },
    el("div", { class: "sheet", tabindex: 0, role: "group", "aria-label": one.title }, drawn(one.svg)), el("figcaption", {}, el("h3", {}, one.title), el("p", {}, one.caption))));
  const { left_out: leftOut } = data.figures;
  return section("figures", "Figures", figures, leftOut.length ? el("details", { class: "problems" }, el("summary", {}, "What was not drawn"), el("ul", {}, leftOut.map((text) => el("li", {}, text)))) : null);
}

// An SVG, read as strict XML and without scripts, as part of the page, whose ink it takes.
function drawn(text) {
  const root = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
  for (const node of root.querySelectorAll("script, foreignObject, a")) node.remove();
  const whole = `${(1.4 * root.viewBox.baseVal.width).toFixed()}px`;
  root.style.maxWidth = whole;
  root.style.setProperty("--whole", whole);
  return document.importNode(root, true);
}

function opening() {
  if (!data.cache) return el("div", { class: "opening" }, el("h1", {}, data.live.name), el("p", { class: "headline" }, "See what ", el("b", {}, broken(data.live.name)), " makes of an image, and where it looks."), el("p", { class: "lead" }, `${trainedOn(data.live.runs)}; features by ${data.live.recipe.backbone}.`));
  const { recipe, images, absent, splits } = data.cache;
  const layers = recipe.layers.map(([name, height, width, channels]) => `${name} ${height}\u00d7${width}\u00d7${channels}`).join(", ");
  const facts = [count(images, "image"), absent ? `${absent} absent` : null, `${recipe.backbone}, ${layers}`, `${recipe.image_size} pixels, ${recipe.eval_view === "squash" ? "squashed" : "central crop"}`, count(splits.length, "split"), count(data.scores.rows.length, "head")];
  return el("div", { class: "opening" }, el("h1", {}, data.cache.name), headline(), el("p", { class: "facts-line" }, facts.filter(Boolean).map((text) => el("span", {}, text))));
}

function trainedOn(runs) {
  return runs.length > 1 ? `The mean over ${count(runs.length, "run")}, on ${count(new Set(runs.map((run) => run.split)).size, "split")}` : `Trained on ${runs[0].trained_on || "unknown images"}`;
}

const sections = [
  data.live && ["live", "Try an image", liveSection],
  data.scores && ["scores", "Scores", scoresSection],
  data.figures && ["figures", "Figures", figuresSection],
  data.gallery && ["images", "Images", gallerySection],
  data.scores && ["runs", "Runs", runsSection],
].filter(Boolean);
document.getElementById("brand").append("amnet ", el("span", { class: "soft" }, data.live ? "explore" : "report"));
document.getElementById("nav").append(...sections.map(([id, title]) => el("a", { href: `#${id}` }, title)));
const main = document.getElementById("main");
main.replaceChildren(opening(), ...sections.map(([, , make]) => make()));
if (!data.scores) main.append(section("runs", "Settings", el("div", { class: "runs" }, runDetails(data.live.name, data.live.runs, data.live.runs[0].settings))));
document.getElementById("foot").append(data.cache ? `Cache ${data.cache.name}, fingerprint ${data.cache.fingerprint.slice(0, 16)}. ` : "", data.live ? "Served from this machine; nothing is sent elsewhere." : "This file holds all that it shows and loads nothing.");
document.documentElement.dataset.ready = "yes";
