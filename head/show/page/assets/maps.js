// Maps of attention or of occlusion, drawn as the program's own figures draw them (head/show/overlay.py): smooth between positions, in
// viridis over the part of the picture that the head saw, which is grey below.
const VIRIDIS = coloursOf("440154 471164 482072 472e7c 433c84 3f4989 39558c 34608d 2f6b8e 2b768e 26808e 228b8d 1f958b 1fa088 24aa83 30b47c 41be72 57c766 6fcf58 8ad647 a7db34 c5e022 e2e418 fde725");
const OPACITY = 0.65;
const LEAST_TOP = 2; // of a scale, in even shares
const PALETTE = paletteOf(VIRIDIS);
const SIGNED = paletteOf(coloursOf("2d004b 532687 8073ac b1aad1 d8daeb f7f7f6 fee0b6 fcb761 e08214 b25706 7f3b08")); // of occlusion: what lowers the score is purple, what raises it orange
const LONGER_SIDE = 256; // pixels of a map as it is drawn

function coloursOf(text) {
  return text.split(" ").map((colour) => [0, 2, 4].map((at) => parseInt(colour.slice(at, at + 2), 16)));
}

// 256 colours through the given ones.
function paletteOf(colours) {
  return Array.from({ length: 256 }, (_, level) => {
    const place = (level / 255) * (colours.length - 1);
    const k = Math.min(colours.length - 2, Math.floor(place));
    return colours[k].map((channel, c) => Math.round(channel + (colours[k + 1][c] - channel) * (place - k)));
  });
}

// The integral up to x of the quadratic B-spline around 0.
function splineIntegral(x) {
  const cube = (at) => Math.max(0, x + at) ** 3;
  return (cube(1.5) - 3 * cube(0.5) + 3 * cube(-0.5) - cube(-1.5)) / 6;
}

// For each pixel of a side [cell, weight]s: the mean over it of the cells' B-splines, mirrored at the side's ends.
function splineMeans(cells, pixels) {
  const below = (edge, cell) => [cell + 0.5, -cell - 0.5, 2 * cells - cell - 0.5].reduce((sum, middle) => sum + splineIntegral(edge - middle), 0);
  const edge = (pixel) => (pixel * cells) / pixels;
  return Array.from({ length: pixels }, (_, pixel) => Array.from({ length: cells }, (_, cell) => [cell, ((below(edge(pixel + 1), cell) - below(edge(pixel), cell)) * pixels) / cells])
    .filter(([, weight]) => weight > 1e-6));
}

// Values (H, W) as pixels (height, width) of the same area.
function upsampled(values, H, W, height, width) {
  const across = splineMeans(W, width), down = splineMeans(H, height);
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

// All looks at an image as surfaces of attention in even shares, and the top of the one scale that they are drawn on; or
// its one surface of occlusion in units of the score, on a scale from -top to top.
function surfacesOf(image, maps) {
  const [T, H, W] = maps.shape;
  const [left, top, right, bottom] = image.box;
  const longer = Math.max(right - left, bottom - top);
  const width = Math.max(1, Math.round((LONGER_SIDE * (right - left)) / longer));
  const height = Math.max(1, Math.round((LONGER_SIDE * (bottom - top)) / longer));
  const occlusion = maps.kind === "occlusion";
  const value = (code) => (occlusion ? (code - 127) / 127 : code / 255) * maps.high;
  const shares = Float32Array.from(atob(maps.levels), (char) => value(char.charCodeAt(0)));
  const looks = Array.from({ length: T }, (_, t) => upsampled(shares.subarray(t * H * W, (t + 1) * H * W), H, W, height, width));
  const most = looks.reduce((most, look) => look.reduce((one, other) => Math.max(one, Math.abs(other)), most), 0);
  return { width, height, looks, occlusion, top: occlusion ? most || 1 : Math.max(LEAST_TOP, most), onTokens: maps.on_tokens };
}

function drawMap(canvas, surface, { top, occlusion }) {
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  const [palette, place] = occlusion ? [SIGNED, (value) => (value / top + 1) / 2] : [PALETTE, (value) => value / top];
  surface.forEach((value, k) => pixels.data.set([...palette[Math.min(255, Math.floor(place(value) * 256))], OPACITY * 255], 4 * k));
  context.putImageData(pixels, 0, 0);
}

// A picture with, if surfaces are given, look t over it: inside the box that the head saw, in pixels of the image.
function picture(image, surfaces, t, label) {
  const [width, height] = image.size;
  const frame = el("div", { class: "picture" });
  frame.style.aspectRatio = `${width} / ${height}`;
  frame.style.maxWidth = `${((26 * width) / height).toFixed(3)}rem`; // so that a tall one is at most 26rem high
  if (image.picture) frame.append(el("img", { src: `data:image/webp;base64,${image.picture}`, alt: surfaces ? "" : label, decoding: "async" }));
  else frame.append(el("p", { class: "gone" }, `No picture: ${image.problem}`));
  const [left, top, right, bottom] = image.box;
  let seen = null;
  if (surfaces) {
    frame.classList.add("mapped");
    seen = el("canvas", { class: "map", role: "img", "aria-label": label, width: surfaces.width, height: surfaces.height });
    drawMap(seen, surfaces.looks[t], surfaces);
  } else if (shareSeen(image) < 1) seen = el("span", { title: "What the head saw" });
  if (seen) {
    seen.classList.add("seen");
    Object.assign(seen.style, {
      left: percent((100 * left) / width), top: percent((100 * top) / height),
      width: percent((100 * (right - left)) / width), height: percent((100 * (bottom - top)) / height),
    });
    frame.append(seen);
  }
  return frame;
}

// The share of the image that the head saw.
function shareSeen(image) {
  const [left, top, right, bottom] = image.box;
  return ((right - left) * (bottom - top)) / (image.size[0] * image.size[1]);
}

// The bar of colours as they look over a middle grey, with a line at an even share, or at no change of the score.
function legend({ top, occlusion }, name) {
  const bar = el("canvas", { width: 256, height: 1, class: "bar", "aria-hidden": "true" });
  const context = bar.getContext("2d");
  (occlusion ? SIGNED : PALETTE).forEach((colour, level) => {
    context.fillStyle = `rgb(${colour.map((channel) => Math.round(OPACITY * channel + (1 - OPACITY) * 127.5)).join(" ")})`;
    context.fillRect(level, 0, 1, 1);
  });
  context.clearRect(occlusion ? 127 : Math.floor(255 / top), 0, 2, 1);
  if (occlusion) {
    const most = top.toPrecision(2);
    return el("p", { class: "legend" }, `Occlusion of ${name} `, el("span", {}, `${MINUS}${most}`), bar, el("span", {}, `+${most}`),
      " how much higher the score is than with the place emptied, its features replaced by the mean training feature");
  }
  return el("p", { class: "legend" }, `Attention of ${name} `, el("span", {}, "0"), bar,
    el("span", {}, `${number(top, 2)}\u00d7`), " an even share, where the line is; one scale for all maps");
}

// The picture, then each look over it with its m_t below, as figure 5 of the paper has them. run says what a look is
// called, and which tokens have a share of its attention: they have no place to be drawn at.
function looksOf(image, surfaces, steps, run) {
  const panels = [el("figure", {}, picture(image, null, 0, image.name), el("figcaption", {}, shareSeen(image) < 1 ? "Framed: what the head saw" : "The image"))];
  if (surfaces?.occlusion)
    panels.push(el("figure", {}, picture(image, surfaces, 0, "What the score hangs on"), el("figcaption", {}, "Occlusion")));
  else if (surfaces)
    for (let t = 0; t < surfaces.looks.length; t++) {
      const rest = run.tokens ? `${(100 * surfaces.onTokens[t]).toFixed(0)}% on ${run.tokens}` : null;
      panels.push(el("figure", {}, picture(image, surfaces, t, `Where ${run.look} ${t + 1} goes; m${t + 1} is ${number(steps[t])}${rest ? `; ${rest}` : ""}`),
        el("figcaption", {}, `${run.look[0].toUpperCase()}${run.look.slice(1)} ${t + 1}`, rest && el("span", {}, rest), el("b", {}, `m${subscript(t + 1)} ${number(steps[t])}`))));
    }
  return el("div", { class: "looks" }, panels);
}

function sumOf(steps, score) {
  if (steps.length < 2) return null;
  const terms = steps.map((step, t) => `${t ? (step < 0 ? ` ${MINUS} ` : " + ") : step < 0 ? MINUS : ""}${number(Math.abs(step))}`);
  return el("p", { class: "sum" }, `${steps.map((_, t) => `m${subscript(t + 1)}`).join(" + ")} = ${terms.join("")} = `, el("b", {}, number(score)));
}
