// The table of scores: a row for each head, its interval drawn, its splits on demand.
function scoresSection() {
  const { rows, part, against, correction, problems } = data.scores;
  const scale = scaleOf(rows.flatMap((row) => [row.rho_mean, row.rho_low, row.rho_high]));
  const ceiling = rows.some((row) => "of_ceiling" in row);
  const head = ["Head", `Spearman \u03c1, ${part}`, "95% interval", ceiling ? "Of ceiling" : null, "MSE", "Validation \u03c1", against ? "Difference" : null, against ? "Holm p" : null, "Splits"];
  const classes = ["", "num", "plot", "num", "num mse", "num val", "num dif", "num dif", "num few"];
  const table = el("table", { class: "scores" },
    el("caption", { class: "hidden" }, "Scores of each head, mean over splits, best on validation first"),
    el("thead", {}, el("tr", {}, head.map((title, k) => title && el("th", { scope: "col", class: classes[k] }, title)))),
    rows.map((row, k) => scoreBody(row, k, scale, against, ceiling)));
  return section("scores", "Scores", el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of scores" }, table), el("p", { class: "note" },
      `Mean and standard deviation over splits on the ${part} part, best on validation first. The line is the 95% interval of the mean; 95% and p: ${correction}.`,
      against ? ` Differences are from ${against}, paired by split.` : "",
      data.scores.ceilings.map((text) => ` ${text[0].toUpperCase()}${text.slice(1)}.`).join(""),
      rows.some((row) => row.optimistic) ? " * The test part selected the epoch, so this is optimistic." : ""),
    problems.length ? el("details", { class: "problems" }, el("summary", {}, `${count(problems.length, "note")} on runs that were left out or are to be read with care`), el("ul", {}, problems.map((text) => el("li", {}, text)))) : null);
}

function scoreBody(row, k, scale, against, ceiling) {
  const id = `splits-${k}`;
  const detail = el("tr", { id, class: "splits", hidden: true }, el("td", { colspan: 9 }, splitTable(row)));
  const button = el("button", {
    type: "button", class: "expand", "aria-expanded": "false", "aria-controls": id,
    click: () => {
      detail.hidden = !detail.hidden;
      button.setAttribute("aria-expanded", String(!detail.hidden));
    },
  }, broken(row.name));
  const compared = row.comparison;
  return el("tbody", { class: row.name === against ? "reference" : "" }, el("tr", {},
      el("th", { scope: "row" }, button),
      el("td", { class: "num" }, el("b", {}, row.rho_mean === null ? "undefined" : number(row.rho_mean)), row.rho_sd === null ? null : el("span", { class: "soft" }, ` \u00b1 ${number(row.rho_sd)}`)),
      el("td", { class: "plot" }, intervalPlot(row, scale)),
      ceiling ? el("td", { class: "num" }, "of_ceiling" in row && row.of_ceiling !== null ? number(row.of_ceiling, 2) : "",
        (row.of_ceiling_low ?? null) === null ? null : el("span", { class: "soft" }, ` ${number(row.of_ceiling_low, 2)} to ${number(row.of_ceiling_high, 2)}`)) : null,
      el("td", { class: "num mse" }, number(row.mse_mean, 4)),
      el("td", { class: "num val" }, number(row.val_rho_mean), row.optimistic ? "*" : ""),
      against ? el("td", { class: "num dif" }, compared ? number(compared.difference, 3, { sign: true }) : el("span", { class: "soft" }, "reference")) : null,
      against ? el("td", { class: "num dif" }, compared ? probability(compared.p_holm) : "") : null,
      el("td", { class: "num few" }, row.seeds > 1 ? `${row.splits} \u00d7 ${row.seeds}` : String(row.splits))),
    detail);
}

function intervalPlot(row, scale) {
  const label = `\u03c1 ${number(row.rho_mean)}, 95% ${interval(row.rho_low, row.rho_high)}`;
  const plot = svg("svg", { class: "interval", role: "img", "aria-label": label, height: 18, width: "100%" }, svg("title", {}, label));
  plot.append(svg("line", { class: "rail", x1: "0", x2: "100%", y1: 9, y2: 9 }));
  if (row.rho_low !== null && row.rho_high !== null)
    plot.append(svg("line", { class: "range", x1: percent(scale.at(row.rho_low)), x2: percent(scale.at(row.rho_high)), y1: 9, y2: 9 }));
  if (row.rho_mean !== null) plot.append(svg("circle", { class: "dot", cx: percent(scale.at(row.rho_mean)), cy: 9, r: 4.5 }));
  return plot;
}

function splitTable(row) {
  const seeds = row.seeds > 1;
  const titles = ["Split", ...(seeds ? ["Seed"] : []), "\u03c1", "95% interval", "MSE", "Images", "Chosen"];
  const cells = (one) => [one.split, ...(seeds ? [one.seed] : []), number(one.rho), interval(one.rho_low, one.rho_high), number(one.mse, 5), one.absent ? `${one.n}, ${one.absent} absent` : one.n, one.chosen];
  const compared = row.comparison;
  return el("div", { class: "within" },
    el("table", {}, el("thead", {}, el("tr", {}, titles.map((title) => el("th", { scope: "col" }, title)))),
      el("tbody", {}, row.results.map((one) => el("tr", {}, cells(one).map((cell) => el("td", {}, String(cell))))))),
    el("p", { class: "note" },
      `95% interval of the mean ${interval(row.rho_low, row.rho_high)}; MSE ${number(row.mse_mean, 5)}; validation \u03c1 ${number(row.val_rho_mean)}. Intervals of splits are bootstrapped over images.`,
      row.interval ? ` ${Math.round(1000 * row.interval.level) / 10}% prediction intervals, \u00b1 ${number(row.interval.half_width)}, hold ${Math.round(1000 * row.interval.coverage) / 10}% of ${count(row.interval.n, "rating")} (${heldByThirds(row.interval)}).` : "",
      compared ? ` Compared with ${compared.against}: ${number(compared.difference, 3, { sign: true })}, 95% ${interval(compared.low, compared.high, { sign: true })}, p ${probability(compared.p)}, Holm p ${probability(compared.p_holm)}, over ${count(compared.splits, "split")}.` : ""));
}

// How many ratings intervals hold by thirds of the rating, or why that is not said.
function heldByThirds({ coverage_of_thirds: shares, n_of_thirds: ratings, why_no_thirds: why }) {
  return shares ? `by thirds of the rating: ${["low", "middle", "high"].map((name) => `${name} ${Math.round(100 * shares[name])}% of ${ratings[name]}`).join(", ")}` : why;
}

// One sentence that says what the table comes to.
function headline() {
  const { rows, part, against } = data.scores;
  const row = rows.find((one) => one.name === against) ?? rows[0];
  const others = rows.filter((one) => one.comparison && one.comparison.p_holm !== null);
  const different = others.filter((one) => one.comparison.p_holm < 0.05);
  const verdict = !others.length ? null
    : different.length ? `Of ${count(others.length, "other head")}, ${different.length} ${different.length === 1 ? "differs" : "differ"} from it significantly (Holm p below 0.05).`
    : `${others.length === 1 ? "The other head does not differ" : `None of the ${others.length} others differs`} from it significantly (Holm p below 0.05).`;
  if (row.rho_mean === null) return el("p", { class: "headline" }, "The correlation of ", el("b", {}, broken(row.name)), " with people is undefined, as it is for one image, for equal scores, and for scores that are no numbers.");
  return [
    el("p", { class: "headline" }, row.runs.some((run) => run.imported) ? "" : "On images it has not seen, ", el("b", {}, broken(row.name)), " ranks with a correlation of ", el("b", {}, number(row.rho_mean)),
      row.rho_low === null ? null : ` (95% ${interval(row.rho_low, row.rho_high)})`,
      row.rho_low !== null && row.rho_low <= 0 && row.rho_high >= 0 ? ", which may be none" : "", "."),
    el("p", { class: "lead" }, `Mean over ${count(row.splits, "split")} of Spearman\u2019s \u03c1 on the ${part} part. ${rows.length > 1 && rows[0] === row && row.val_rho_mean !== null && !row.optimistic ? "It is the best on validation. " : ""}`, verdict),
  ];
}
