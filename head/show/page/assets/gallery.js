// The gallery: every image in every split it was scored in, sorted, filtered, and opened one at a time.
const AT_ONCE = 240; // cards; further ones are made when their place comes near
const ORDERS = [
  ["truth-high", "Rated highest", (entry) => -entry.truth],
  ["truth-low", "Rated lowest", (entry) => entry.truth],
  ["prediction-high", "Predicted highest", (entry, k) => -entry.predictions[k]],
  ["prediction-low", "Predicted lowest", (entry, k) => entry.predictions[k]],
  ["error", "Largest errors", (entry, k) => -Math.abs(entry.predictions[k] - entry.truth)],
  ["over", "Most overrated", (entry, k) => entry.truth - entry.predictions[k]],
  ["under", "Most underrated", (entry, k) => entry.predictions[k] - entry.truth],
  ["match", "Best predicted", (entry, k) => Math.abs(entry.predictions[k] - entry.truth)],
  ["name", "By name", null],
];

function gallerySection() {
  const { entries, images, shown, of } = data.gallery;
  const rows = data.scores.rows;
  const scale = scaleOf(entries.flatMap((entry) => [entry.truth, entry.predictions[shown]]));
  const state = { order: "truth-high", split: "", row: shown, search: "" };
  let list = [];
  const end = el("div", { "aria-hidden": "true" });
  const more = new IntersectionObserver((seen) => { if (seen.at(-1).isIntersecting) grow(grid.children.length + AT_ONCE); }, { rootMargin: "1500px" });
  const grid = el("ul", { class: "grid", "aria-label": "Images" });
  const tally = el("p", { class: "tally", role: "status" });
  const pictures = new IntersectionObserver((seen) => {
    for (const { isIntersecting, target } of seen.filter((one) => one.isIntersecting)) {
      target.src = `data:image/webp;base64,${images[target.dataset.row].picture}`;
      pictures.unobserve(target);
    }
  }, { rootMargin: "600px" });

  function refresh() {
    const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
    list = entries.filter((entry) => (!state.split || entry.split === state.split) && entry.predictions[state.row] !== null &&
      words.every((word) => images[entry.row].name.toLowerCase().includes(word)));
    const key = ORDERS.find(([id]) => id === state.order)[2];
    const named = (one, other) => (images[one.row].name < images[other.row].name ? -1 : images[one.row].name > images[other.row].name ? 1 : 0);
    list.sort((one, other) => (key ? key(one, state.row) - key(other, state.row) : 0) || named(one, other));
    pictures.disconnect();
    grid.replaceChildren();
    grow(AT_ONCE);
    tally.textContent = list.length ? `${list.length.toLocaleString("en")} of ${entries.length.toLocaleString("en")}` : "No image fits. Try another word or split.";
  }

  // Make the cards of the first so many images, if they are not there yet.
  function grow(stop) {
    const from = grid.children.length;
    const cards = list.slice(from, stop).map((entry, k) => card(entry, from + k));
    grid.append(...cards);
    for (const one of cards) for (const image of one.querySelectorAll("img")) pictures.observe(image);
    more.unobserve(end); // and again, so that it tells anew where the end is still near
    if (grid.children.length < list.length) more.observe(end);
  }

  function card(entry, k) {
    const image = images[entry.row];
    const predicted = entry.predictions[state.row];
    const label = `${image.name}, split ${entry.split}, rated ${number(entry.truth)}, predicted ${number(predicted)}`;
    const photo = image.picture ? el("img", { alt: "", "data-row": entry.row, decoding: "async", width: 200, height: 200 }) : el("span", { class: "gone" }, image.problem);
    return el("li", {}, el("button", {
      type: "button", class: "card", "aria-label": label, "aria-haspopup": "dialog", tabindex: k ? -1 : 0, title: image.name,
      click: () => show(k), keydown: (event) => move(event, k),
    }, el("span", { class: "photo" }, photo), track(entry.truth, predicted, scale),
      el("span", { class: "pair" }, el("span", { class: "rated" }, number(entry.truth, 2)), el("span", { class: "soft" }, `split ${entry.split}`), el("span", { class: "predicted" }, number(predicted, 2)))));
  }

  function move(event, k) {
    const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -k, End: list.length - 1 - k };
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    focus(Math.min(list.length - 1, Math.max(0, k + steps[event.key])));
  }

  function focus(k) {
    grow(k + 1);
    const cards = grid.querySelectorAll(".card");
    for (const one of grid.querySelectorAll('.card[tabindex="0"]')) one.tabIndex = -1;
    cards[k].tabIndex = 0;
    cards[k].focus();
  }

  function show(k) {
    openDetail(list, k, state.row, scale, (last) => focus(last));
  }

  const choose = (id, label, options, changed) => el("label", { for: id }, el("span", {}, label),
    el("select", { id, change: (event) => { changed(event.target.value); refresh(); } }, options));
  const splits = [...new Set(entries.map((entry) => entry.split))];
  const form = el("form", { class: "controls", role: "search", submit: (event) => event.preventDefault() },
    choose("order", "Order", ORDERS.map(([id, title]) => el("option", { value: id }, title)), (value) => { state.order = value; }),
    choose("split", "Split", [el("option", { value: "" }, "All splits"), splits.map((split) => el("option", { value: split }, `Split ${split}`))], (value) => { state.split = value; }),
    choose("row", "Predicted by", rows.map((row, k) => el("option", { value: k, selected: k === shown }, row.name)), (value) => { state.row = Number(value); }),
    el("label", { for: "search" }, el("span", {}, "Name"), el("input", {
      id: "search", type: "search", placeholder: "Search", autocomplete: "off", spellcheck: "false",
      input: (event) => { state.search = event.target.value; refresh(); },
    })), tally);
  refresh();
  const kept = Object.keys(images).length;
  return section("images", "Images", el("p", { class: "note" },
      el("span", { class: "key rated" }, "rated by people"), " ", el("span", { class: "key predicted" }, "predicted"), `, on a line from ${number(scale.low, 2)} to ${number(scale.high, 2)}. `,
      "What lies beyond its ends is drawn there. An image appears once in each split that scored it. Arrow keys move, Enter opens.",
      kept < of ? ` The gallery has ${kept.toLocaleString("en")} of ${of.toLocaleString("en")} images: half by lot, the others highest, lowest and worst predicted.` : ""),
    verdictOf(rows[shown].name),
    form, grid, end);
}

// What the attention maps of a head tell, in red where that is little or nothing; null of a head that was not measured.
function verdictOf(name) {
  const told = data.maps[name];
  return told ? el("p", { class: told.says === "where" ? "note" : "refused" }, `${name}: ${told.verdict[0].toLowerCase()}${told.verdict.slice(1)}`) : null;
}

// A line from the lowest to the highest score, a bar where people put the image and a dot where the head does.
function track(truth, predicted, scale) {
  const [x1, x2] = [percent(scale.at(truth)), percent(scale.at(predicted))];
  return svg("svg", { class: "track", height: 14, width: "100%", "aria-hidden": "true" },
    svg("line", { class: "rail", x1: "0", x2: "100%", y1: 7, y2: 7 }), svg("line", { class: "gap", x1, x2, y1: 7, y2: 7 }),
    svg("line", { class: "truth", x1, x2: x1, y1: 1, y2: 13 }), svg("circle", { class: "dot", cx: x2, cy: 7, r: 4 }));
}
