// Settings, results and fingerprints: of the cache, and of every run, what is unusual in bold.
function runsSection() {
  const rows = data.scores.rows;
  const usual = usualOf(rows.map((row) => row.runs[0].settings));
  return section("runs", "Runs and cache",
    el("p", { class: "note" }, rows.length > 1 ? "Settings in bold are not those of most heads." : null),
    el("div", { class: "runs" }, rows.map((row) => runDetails(row.name, row.runs, usual)), cacheDetails()));
}

function runDetails(name, runs, usual) {
  const first = runs[0];
  const lines = runs.map((run) => [run.split, run.seed, run.folder, run.chosen, run.result.head_sha256.slice(0, 16)]);
  return el("details", {}, el("summary", {}, el("span", {}, broken(name)), el("span", { class: "soft" }, count(runs.length, "run"))),
    el("div", { class: "inside" }, facts(first.settings, usual), el("div", { class: "scroll" }, el("table", {},
        el("thead", {}, el("tr", {}, ["Split", "Seed", "Folder", "Chosen", "Digest of the head"].map((title) => el("th", { scope: "col" }, title)))),
        el("tbody", {}, lines.map((cells) => el("tr", {}, cells.map((cell, k) => el("td", { class: k === 2 || k === 4 ? "code" : "" }, String(cell)))))))),
      el("p", { class: "note" }, `Reads ${(first.input.inputs ?? [first.input]).map((one) => `${one.layers.join(", ")} as ${one.pooling}`).join("; ")}; chosen on ${first.selected_on}; trained on ${first.train_images ? count(first.train_images, "image") : "an unknown number of images"}.`),
      el("p", { class: "note" }, "Fingerprint of the features ", el("code", {}, first.fingerprint))));
}

function cacheDetails() {
  const cache = data.cache;
  return el("details", {}, el("summary", {}, el("span", {}, `Cache ${cache.name}`), el("span", { class: "soft" }, count(cache.images, "image"))),
    el("div", { class: "inside" }, facts(cache.recipe, cache.recipe), el("p", { class: "note" }, "Fingerprint ", el("code", {}, cache.fingerprint))));
}

function facts(values, usual) {
  return el("dl", { class: "facts" }, Object.keys(values).sort().map((key) =>
    el("div", { class: same(values[key], usual[key]) ? "" : "unusual" }, el("dt", {}, key.replaceAll("_", " ")), el("dd", {}, plain(values[key])))));
}

function plain(value) {
  if (Array.isArray(value)) return value.length ? value.map((one) => (Array.isArray(one) ? one.join(" ") : String(one))).join(", ") : "the last";
  return value === true ? "on" : value === false ? "off" : value === null || value === "" ? "\u2013" : typeof value === "object" ? JSON.stringify(value) : String(value);
}

function same(one, other) {
  return JSON.stringify(one) === JSON.stringify(other);
}

// The value that most of those that have a setting have of it.
function usualOf(all) {
  const keys = [...new Set(all.flatMap(Object.keys))];
  return Object.fromEntries(keys.map((key) => {
    const times = new Map();
    for (const values of all.filter((one) => key in one)) times.set(JSON.stringify(values[key]), (times.get(JSON.stringify(values[key])) ?? 0) + 1);
    const [text] = [...times].sort((one, other) => other[1] - one[1])[0];
    return [key, text === undefined ? undefined : JSON.parse(text)];
  }));
}
