"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const state = { example: 0, method: 0, target: 0, row: null, column: null };

// Bytes as they were written, little-endian, and numbers made of them.
function bytes(text) {
  return Uint8Array.from(atob(text), c => c.charCodeAt(0));
}
function numbers(text) {
  const raw = new DataView(bytes(text).buffer);
  const size = data.bytes;
  return Array.from({ length: raw.byteLength / size }, (_, i) =>
    size === 4 ? raw.getFloat32(4 * i, true) : raw.getFloat64(8 * i, true));
}
// As many digits as the numbers have: what is shown is the attribution itself.
function format(value, digits) {
  const size = Math.abs(value), short = size === 0 || (size >= 1e-3 && size < 1e6);
  return short ? String(Number(value.toPrecision(digits))) : value.toExponential(digits - 1).replace(/\.?0*e/, "e");
}
const exact = value => format(value, data.bytes === 4 ? 7 : 12);

const decoded = new Map();
function map() {
  const entry = data.methods[state.method].targets[state.target].maps[state.example];
  if (!decoded.has(entry)) decoded.set(entry, { ...entry, values: numbers(entry.values) });
  return decoded.get(entry);
}

const palette = bytes(data.palette);
function shade(value, scale) { // where in the palette
  const t = Math.min(1, Math.max(-1, value / scale.limit));
  return 3 * Math.min(255, Math.floor(128 * (1 + t)));
}
const css = at => `rgb(${palette[at]}, ${palette[at + 1]}, ${palette[at + 2]})`;

function paint(canvas, height, width, pixel) {
  canvas.height = height;
  canvas.width = width;
  canvas.style.imageRendering = width > 500 ? "auto" : "pixelated"; // drawn smaller, or larger
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    const [red, green, blue] = pixel(i);
    image.data.set([red, green, blue, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
}

function drawImages() {
  const { height, width, channels } = data.images, shown = bytes(data.images.values[state.example]);
  const at = (i, channel) => shown[channels * i + (channels === 1 ? 0 : channel)];
  paint($("input"), height, width, i => [at(i, 0), at(i, 1), at(i, 2)]);
  // From mid-grey to white, so that the colours above stay those of the colour bar.
  paint($("faint"), height, width, i => {
    const grey = 127.5 + 0.5 * (0.299 * at(i, 0) + 0.587 * at(i, 1) + 0.114 * at(i, 2));
    return [grey, grey, grey];
  });
  $("map").style.aspectRatio = `${width} / ${height}`;
  const { values, shape, scale } = map();
  paint($("heat"), shape[0], shape[1], i => palette.subarray(shade(values[i], scale), shade(values[i], scale) + 3));
}

function luminance(at) {
  const linear = [0, 1, 2].map(i => palette[at + i] / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}
function drawTokens() {
  const { values, scale } = map();
  $("tokens").replaceChildren(...data.tokens[state.example].map((token, i) => {
    const span = document.createElement("span"), number = document.createElement("small"), at = shade(values[i], scale);
    span.className = "token";
    span.append(token, number);
    number.textContent = format(values[i], 3);
    span.title = exact(values[i]);
    span.style.background = css(at);
    span.style.color = luminance(at) > 0.179 ? "#000" : "#fff";
    span.onpointerenter = () => read(`token ${i} “${token}”:`, values[i]);
    return span;
  }));
}

function read(where, value) {
  $("where").textContent = where;
  $("value").textContent = exact(value);
}
function point() { // what the cursor is on
  const { values, shape: [height, width] } = map();
  state.row = Math.min(height - 1, Math.max(0, state.row));
  state.column = Math.min(width - 1, Math.max(0, state.column));
  const { row, column } = state, cursor = $("cursor");
  cursor.hidden = false;
  cursor.style.left = `${100 * column / width}%`;
  cursor.style.top = `${100 * row / height}%`;
  cursor.style.width = `${100 / width}%`;
  cursor.style.height = `${100 / height}%`;
  read(`row ${row}, column ${column}:`, values[row * width + column]);
}
function forget() {
  state.row = state.column = null;
  $("cursor").hidden = true;
  $("where").textContent = "value";
  $("value").textContent = "–";
}

function drawScale() {
  const { values, scale } = map();
  const stops = Array.from({ length: 33 }, (_, i) => (scale.signed ? i / 16 - 1 : i / 32) * scale.limit);
  $("bar").style.background = `linear-gradient(to right, ${stops.map(value => css(shade(value, scale))).join(", ")})`;
  const low = [(scale.below ? "≤ " : "") + format(-scale.limit, 3), "0"];
  const ticks = [...(scale.signed ? low : ["0"]), (scale.above ? "≥ " : "") + format(scale.limit, 3)];
  $("ticks").replaceChildren(...ticks.map(text => Object.assign(document.createElement("span"), { textContent: text })));
  $("caption").textContent = scale.caption;
  const [sum, least, most] = [values.reduce((a, b) => a + b, 0), Math.min, Math.max].map((f, i) =>
    i ? values.reduce((a, b) => f(a, b)) : f);
  $("sums").textContent = `sum ${format(sum, 6)}, smallest ${exact(least)}, largest ${exact(most)}`;
}

function fade() {
  const opacity = data.images ? $("opacity").value / 100 : 1;
  $("percent").textContent = `${$("opacity").value} %`;
  $("heat").style.opacity = $("bar").style.opacity = opacity;
}

function tabs(list, names, chosen, choose) {
  list.hidden = names.length < 2 && !names[0];
  const select = i => { choose(i); list.children[i].focus(); };
  list.replaceChildren(...names.map((name, i) => {
    const tab = document.createElement("button");
    Object.assign(tab, { type: "button", textContent: name, tabIndex: i === chosen ? 0 : -1, onclick: () => select(i) });
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-selected", String(i === chosen));
    tab.setAttribute("aria-controls", "view");
    tab.onkeydown = event => {
      const last = names.length - 1;
      const to = { ArrowRight: i < last ? i + 1 : 0, ArrowLeft: i ? i - 1 : last, Home: 0, End: last }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      select(to);
    };
    return tab;
  }));
}

function draw() {
  const targets = data.methods[state.method].targets;
  tabs($("methods"), data.methods.map(method => method.name), state.method, i => {
    const name = data.methods[state.method].targets[state.target].name; // the same target, where the method has it
    state.method = i;
    state.target = Math.max(0, data.methods[i].targets.findIndex(target => target.name === name));
    draw();
  });
  tabs($("targets"), targets.map(target => target.name), state.target, i => { state.target = i; draw(); });
  const what = [data.methods[state.method].name, targets[state.target].name, data.titles[state.example]].filter(Boolean).join(", ");
  $("view").setAttribute("aria-label", what);
  if (data.images) {
    drawImages();
    $("map").setAttribute("aria-label", `attribution: ${what}`);
    $("input").setAttribute("aria-label", `input: ${data.titles[state.example]}`);
    if (state.row !== null) point();
  } else {
    drawTokens();
    forget();
  }
  drawScale();
  fade();
}

$("example").replaceChildren(...data.titles.map((title, i) => new Option(title, i)));
$("examples").hidden = data.titles.length < 2;
$("example").onchange = () => { state.example = Number($("example").value); draw(); };
$("opacity").oninput = fade;
$("controls").onsubmit = event => event.preventDefault();
$("images").hidden = $("slider").hidden = !data.images;
$("tokens").hidden = Boolean(data.images);
$("map").onpointermove = $("map").onpointerdown = event => {
  const box = $("map").getBoundingClientRect(), [height, width] = map().shape;
  state.row = Math.floor((event.clientY - box.top) / box.height * height);
  state.column = Math.floor((event.clientX - box.left) / box.width * width);
  point();
};
$("map").onpointerleave = forget;
$("map").onfocus = () => { if (state.row === null) { state.row = state.column = 0; point(); } };
$("map").onblur = forget;
$("map").onkeydown = event => {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  state.row = (state.row ?? 0) + step[0];
  state.column = (state.column ?? 0) + step[1];
  point();
};
draw();
