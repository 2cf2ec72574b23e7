// One image, opened: where the head looks, the scores of its looks, and what every head predicts of it.
function openDetail(list, start, row, scale, closed) {
  const dialog = document.getElementById("detail");
  let k = start;

  function fill() {
    const entry = list[k], image = data.gallery.images[entry.row];
    const surfaces = entry.maps && surfacesOf(image, entry.maps);
    const predicted = entry.predictions[row];
    dialog.replaceChildren(
      el("div", { class: "bar-top" },
        el("div", {}, el("h2", { id: "detail-name", tabindex: -1 }, image.name), el("p", { class: "soft" }, `Split ${entry.split}, ${data.scores.part} part \u00b7 ${image.size.join(" \u00d7 ")} pixels \u00b7 ${k + 1} of ${list.length}`)),
        el("div", { class: "buttons" },
          el("button", { type: "button", "aria-label": "Previous image", id: "previous", disabled: k === 0, click: () => go(-1) }, "\u2190"),
          el("button", { type: "button", "aria-label": "Next image", id: "next", disabled: k === list.length - 1, click: () => go(1) }, "\u2192"),
          el("button", { type: "button", "aria-label": "Close", id: "close", click: () => dialog.close() }, "\u2715"))),
      el("dl", { class: "verdict" },
        el("div", { class: "rated" }, el("dt", {}, "Rated by people"), el("dd", { id: "rated" }, number(entry.truth))),
        el("div", { class: "predicted" }, el("dt", {}, `Predicted by ${data.scores.rows[row].name}`), el("dd", { id: "predicted" }, number(predicted))),
        boundsOf(data.scores.rows[row], entry.split, predicted),
        el("div", {}, el("dt", {}, "Error"), el("dd", {}, number(predicted - entry.truth, 3, { sign: true })))),
      looksOf(image, surfaces, entry.steps, data.scores.rows[data.gallery.shown].runs[0]), lookNotes(entry, surfaces), nearestOf(nearRated(entry), entry.far, data.scores.rows[data.gallery.shown].name), predictionsOf(entry, row, scale));
    dialog.scrollTop = 0;
  }

  function go(step) {
    if (!list[k + step]) return;
    k += step;
    const held = document.activeElement?.id;
    fill();
    const again = dialog.querySelector(`#${["previous", "next"].includes(held) ? held : "close"}`);
    (again.disabled ? dialog.querySelector("#close") : again).focus();
  }

  dialog.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    go(step);
  };
  dialog.onclick = (event) => { if (event.target === dialog) dialog.close(); };
  dialog.onclose = () => closed(k);
  fill();
  dialog.showModal();
  dialog.querySelector("#close").focus();
}

// The interval of a head's prediction in a split, null where it gives none; predictions are of the first seed.
function boundsOf(head, split, predicted) {
  const found = head.results.filter((one) => one.split === split).sort((a, b) => a.seed - b.seed)[0]?.interval;
  return found ? el("div", {}, el("dt", {}, `${Math.round(1000 * found.level) / 10}% interval`), el("dd", { id: "bounds" }, interval(predicted - found.half_width, predicted + found.half_width))) : null;
}

function lookNotes(entry, surfaces) {
  const shown = data.scores.rows[data.gallery.shown].name;
  if (!surfaces) return el("p", { class: "note" }, `${shown} has no map that could be drawn${entry.steps.length ? ": it has no attention, and occlusion is not computed of it" : " in this split"}.`);
  const score = entry.predictions[data.gallery.shown];
  return el("div", { class: "beneath" }, sumOf(entry.steps, score), legend(surfaces, shown), verdictOf(shown));
}

function predictionsOf(entry, row, scale) {
  const lines = data.scores.rows.map((one, k) => [one.name, entry.predictions[k], k]).filter(([, value]) => value !== null);
  return el("div", { class: "all" }, el("h3", {}, "Every head on this image"), el("table", { class: "heads" },
    el("thead", { class: "hidden" }, el("tr", {}, ["Head", "On a line", "Predicted", "Error"].map((title) => el("th", { scope: "col" }, title)))),
    el("tbody", {}, lines.map(([name, value, k]) => el("tr", { class: k === row ? "chosen" : "" },
      el("th", { scope: "row" }, broken(name)), el("td", { class: "plot" }, track(entry.truth, value, scale)),
      el("td", { class: "num" }, number(value)), el("td", { class: "num soft" }, number(value - entry.truth, 3, { sign: true })))))));
}

// The neighbours of an entry, with what the page has of each.
function nearRated(entry) {
  const { images, near } = data.gallery;
  return (entry.near ?? []).map(([row, rating, distance]) => ({ rating, distance, image: (images[row] ?? near[row]).name, picture: (images[row] ?? near[row]).picture }));
}

// The images that a head was trained on and that are nearest to one, with their ratings.
function nearestOf(near, far, name) {
  if (!near?.length) return null;
  const pictured = ({ picture, image, rating, distance }) => el("li", { title: `${image}, distance ${number(distance)}` },
    picture ? el("img", { alt: "", src: `data:image/webp;base64,${picture}`, width: 112, height: 112 }) : null,
    el("span", { class: "rated" }, number(rating, 2)), el("span", { class: "soft" }, image));
  return el("div", { class: "all" }, el("h3", {}, "Nearest rated images"),
    el("p", { class: "note" }, `Of those that ${name} was trained on, with what people rated them.`),
    far ? el("p", { class: "refused" }, "This image is far from all of them, farther than 99% are from each other: its score rests on little.") : null,
    el("ul", { class: "near" }, near.map(pictured)));
}
