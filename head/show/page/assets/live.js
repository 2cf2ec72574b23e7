// Live prediction: an image that is dropped, pasted or chosen goes to the program that serves this page, and its
// bytes alone, without a name; the score and the maps come back.
function liveSection() {
  const { name, runs, most_bytes: mostBytes } = data.live;
  const results = el("div", { class: "results" });
  const said = el("p", { class: "said", role: "status" });
  const input = el("input", { id: "file", type: "file", accept: "image/*,.avif,.heic,.heif,.hif", multiple: true, class: "hidden-input", change: () => { take([...input.files]); input.value = ""; } });
  const drop = el("label", { class: "drop", for: "file" }, el("b", {}, "Drop an image here"), el("span", {}, "or paste one, or choose a file"), input);
  const here = location.origin + location.pathname.replace(/\/?$/, "/"); // a proxy may put this page under a path
  let last = Promise.resolve();

  function take(files) {
    for (const file of files) last = last.then(() => predict(file));
  }

  async function predict(file) {
    const name = file.name || "pasted image";
    said.textContent = `Looking at ${name} \u2026`;
    try {
      const found = await ask(file);
      results.prepend(liveResult(name, found));
      said.textContent = `${name}: ${number(found.score)}`;
    } catch (error) {
      results.prepend(el("p", { class: "refused", role: "alert" }, el("b", {}, name), ` ${error.message}`));
      said.textContent = "";
    }
  }

  async function ask(file) {
    if (file.size > mostBytes) throw new Error(`${(file.size / 1e6).toFixed(1)} MB; at most ${(mostBytes / 1e6).toFixed(0)} MB are taken`);
    let answer;
    try {
      answer = await fetch(new URL("predict", here), { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file });
    } catch {
      throw new Error("The program that serves this page does not answer; start it again.");
    }
    const found = await answer.json().catch(() => ({ error: `No answer that could be read (${answer.status}); try again in a moment.` })); // the server's own refusal is no JSON
    if (found.error) throw new Error(found.error);
    return found;
  }

  document.addEventListener("paste", (event) => { const files = [...event.clipboardData.files]; if (files.length) { event.preventDefault(); take(files); } });
  document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => { event.preventDefault(); drop.classList.remove("over"); take([...event.dataTransfer.files]); });
  return section("live", "Try an image", el("p", { class: "note" }, `Scored by ${name}, ${runs.length > 1 ? `the mean over its ${count(runs.length, "run")}` : `trained on ${runs[0].trained_on || "unknown images"}`}, on this machine. Images are not kept.${runs[0].estimate ? ` It was ${runs[0].estimate}.` : ""}`), drop, said, results);
}

function liveResult(name, found) {
  const image = { name, size: found.size, box: found.box, picture: found.picture };
  const surfaces = found.maps && surfacesOf(image, found.maps);
  const rank = rankOf(found.score);
  const members = data.live.runs.length;
  const trained = members > 1 ? `${found.trained_members} of the ${members} runs were` : "The head was";
  return el("article", { class: "result" }, el("h3", {}, name),
    el("dl", { class: "verdict" }, el("div", { class: "predicted" }, el("dt", {}, "Predicted"), el("dd", {}, number(found.score))),
      found.lower === null ? null : el("div", {}, el("dt", {}, `${Math.round(1000 * found.level) / 10}% interval`), el("dd", { class: "bounds" }, interval(found.lower, found.upper))),
      found.deviation === null ? null : el("div", {}, el("dt", {}, `Deviation over ${members} runs`), el("dd", {}, number(found.deviation))),
      rank === null ? null : el("div", {}, el("dt", {}, `Above the ratings of`), el("dd", {}, `${rank}% of ${count(data.gallery.of, "image")}`))),
    found.in_training ? el("p", { class: "refused" }, `${trained} trained on this very image, so its score says nothing.`) : null,
    ...found.notes.map((note) => el("p", { class: "refused" }, note)),
    looksOf(image, surfaces, found.steps, data.live.runs[0]), surfaces ? el("div", { class: "beneath" }, sumOf(found.steps, found.score), legend(surfaces, data.live.name)) : null, nearestOf(found.nearest, found.far, data.live.name));
}

// The share of rated images, in percent, whose rating is below a score, by quantiles; null without a gallery.
function rankOf(score) {
  if (!data.gallery) return null;
  const { ratings } = data.gallery;
  return Math.round((100 * ratings.filter((rating) => rating < score).length) / ratings.length);
}
