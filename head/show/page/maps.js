// Attention maps: from levels of one byte to colours over the part of the picture that the head saw.
// The colours go from dark violet over red to pale yellow, their lightness rising all the way, so that they can be told
// apart without colour as well.
const STOPS = [[13, 8, 45], [66, 10, 104], [122, 28, 109], [176, 49, 91], [221, 81, 58], [247, 132, 24], [252, 190, 60], [252, 252, 180]];
const PALETTE = Array.from({ length: 256 }, (_, level) => {
  const place = (level / 255) * (STOPS.length - 1);
  const k = Math.min(STOPS.length - 2, Math.floor(place));
  return STOPS[k].map((channel, c) => Math.round(channel + (STOPS[k + 1][c] - channel) * (place - k)));
});

function levelsOf(maps) {
  const text = atob(maps.levels);
  return Uint8Array.from(text, (char) => char.charCodeAt(0));
}

// Weights of Catmull and Rom's cubic, which keeps the value at the centre of each cell.
function cubic(x) {
  const a = Math.abs(x);
  if (a < 1) return 1.5 * a ** 3 - 2.5 * a ** 2 + 1;
  return a < 2 ? -0.5 * a ** 3 + 2.5 * a ** 2 - 4 * a + 2 : 0;
}

function taps(cells, pixels) {
  return Array.from({ length: pixels }, (_, pixel) => {
    const place = ((pixel + 0.5) * cells) / pixels - 0.5;
    const first = Math.floor(place) - 1;
    return [0, 1, 2, 3].map((k) => [Math.min(cells - 1, Math.max(0, first + k)), cubic(place - first - k)]);
  });
}

// Values (H, W) as (height, width), smooth between the centres of cells.
function enlarged(values, H, W, height, width) {
  const across = taps(W, width), down = taps(H, height);
  const rows = new Float32Array(H * width);
  for (let y = 0; y < H; y++)
    for (let x = 0; x < width; x++)
      for (const [cell, weight] of across[x]) rows[y * width + x] += weight * values[y * W + cell];
  const out = new Float32Array(height * width);
  for (let y = 0; y < height; y++)
    for (const [cell, weight] of down[y])
      for (let x = 0; x < width; x++) out[y * width + x] += weight * rows[cell * width + x];
  return out;
}

// Draw look t; what gets little attention stays dark and clear, what gets most is bright and nearly opaque.
function drawMap(canvas, maps, t) {
  const [, H, W] = maps.shape;
  const values = levelsOf(maps).subarray(t * H * W, (t + 1) * H * W);
  const { width, height } = canvas;
  const smooth = enlarged(values, H, W, height, width);
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let k = 0; k < smooth.length; k++) {
    const level = Math.min(255, Math.max(0, Math.round(smooth[k])));
    const [red, green, blue] = PALETTE[level];
    pixels.data.set([red, green, blue, 70 + 0.66 * level], 4 * k);
  }
  context.putImageData(pixels, 0, 0);
}

// A picture with, if maps are given, look t over it: inside the box that the head saw, in pixels of the image.
function picture(image, maps, t, label) {
  const [width, height] = image.size;
  const frame = el("div", { class: "picture" });
  frame.style.aspectRatio = `${width} / ${height}`;
  frame.style.maxWidth = `${((26 * width) / height).toFixed(3)}rem`; // so that a tall one is at most 26rem high
  if (image.picture) frame.append(el("img", { src: `data:image/webp;base64,${image.picture}`, alt: maps ? "" : label, decoding: "async" }));
  else frame.append(el("p", { class: "gone" }, `No picture: ${image.problem}`));
  const [left, top, right, bottom] = image.box;
  if (maps) {
    frame.classList.add("mapped");
    const across = right - left, down = bottom - top, longer = Math.max(across, down);
    const canvas = el("canvas", {
      class: "map", role: "img", "aria-label": label,
      width: Math.max(1, Math.round((256 * across) / longer)), height: Math.max(1, Math.round((256 * down) / longer)),
    });
    Object.assign(canvas.style, {
      left: percent((100 * left) / width), top: percent((100 * top) / height),
      width: percent((100 * across) / width), height: percent((100 * down) / height),
    });
    drawMap(canvas, maps, t);
    frame.append(canvas);
  } else if (across(image) < 1) {
    const seen = el("span", { class: "seen", title: "What the head saw" });
    Object.assign(seen.style, {
      left: percent((100 * left) / width), top: percent((100 * top) / height),
      width: percent((100 * (right - left)) / width), height: percent((100 * (bottom - top)) / height),
    });
    frame.append(seen);
  }
  return frame;
}

// The share of the image that the head saw.
function across(image) {
  const [left, top, right, bottom] = image.box;
  return ((right - left) * (bottom - top)) / (image.size[0] * image.size[1]);
}

function legend(maps, name) {
  const bar = el("canvas", { width: 256, height: 1, class: "bar", "aria-hidden": "true" });
  const context = bar.getContext("2d");
  PALETTE.forEach(([red, green, blue], level) => {
    context.fillStyle = `rgb(${red} ${green} ${blue})`;
    context.fillRect(level, 0, 1, 1);
  });
  return el("p", { class: "legend" }, `Attention of ${name} `, el("span", {}, `${number(maps.low, 2)}\u00d7`), bar,
    el("span", {}, `${number(maps.high, 2)}\u00d7`), " of an even share; one scale for all looks");
}

// The picture, then each look over it with its m_t below, as figure 5 of the paper has them.
function looksOf(image, maps, steps) {
  const panels = [el("figure", {}, picture(image, null, 0, image.name), el("figcaption", {}, across(image) < 1 ? "Framed: what the head saw" : "The image"))];
  if (maps)
    for (let t = 0; t < maps.shape[0]; t++)
      panels.push(el("figure", {}, picture(image, maps, t, `Where look ${t + 1} goes; m${t + 1} is ${number(steps[t])}`),
        el("figcaption", {}, `Look ${t + 1}`, el("b", {}, `m${subscript(t + 1)} ${number(steps[t])}`))));
  return el("div", { class: "looks" }, panels);
}

function sumOf(steps, score) {
  if (steps.length < 2) return null;
  const terms = steps.map((step, t) => `${t ? (step < 0 ? ` ${MINUS} ` : " + ") : step < 0 ? MINUS : ""}${number(Math.abs(step))}`);
  return el("p", { class: "sum" }, `${steps.map((_, t) => `m${subscript(t + 1)}`).join(" + ")} = ${terms.join("")} = `, el("b", {}, number(score)));
}
