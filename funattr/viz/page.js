// As many digits as the numbers have: what is shown is the attribution itself, or it rounded as the page says.
const exact = (value, entry) => format(value, entry.unit !== null || entry.bytes === 8 ? 12 : 7);

const palette = bytes(data.palette);
const part = (value, scale) => Math.min(1, Math.max(-1, value / scale.limit));
const shade = t => 3 * Math.min(255, Math.floor(128 * (1 + t))); // where in the palette
const css = (t, opacity = 1) => `rgb(${palette[shade(t)]} ${palette[shade(t) + 1]} ${palette[shade(t) + 2]} / ${opacity})`;

function paint(canvas, height, width, pixels) {
  Object.assign(canvas, { height, width });
  canvas.style.imageRendering = width > 500 ? "auto" : "pixelated"; // drawn smaller, or larger
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
}
// Linear between the middles of pixels, as the figures are.
function enlarged(values, [height, width], rows, columns) {
  const found = new Float64Array(rows * columns);
  const places = (size, of) => Array.from({ length: size }, (_, i) => {
    const at = Math.min(of - 1, Math.max(0, (i + 0.5) * of / size - 0.5)), low = Math.floor(at);
    return [low, Math.min(of - 1, low + 1), at - low];
  });
  const across = places(columns, width);
  places(rows, height).forEach(([top, bottom, down], row) => across.forEach(([left, right, along], column) => {
    const mixed = line => values[line * width + left] * (1 - along) + values[line * width + right] * along;
    found[row * columns + column] = mixed(top) * (1 - down) + mixed(bottom) * down;
  }));
  return found;
}
function paintHeat(canvas, { values, shape, scale }) {
  let [height, width] = shape;
  const { height: rows, width: columns } = data.images;
  if ($("smooth").checked && height <= rows && width <= columns && (height < rows || width < columns)) {
    values = enlarged(values, shape, rows, columns);
    [height, width] = [rows, columns];
  }
  const pixels = new Uint8ClampedArray(4 * height * width);
  values.forEach((value, i) => {
    const t = part(value, scale), at = shade(t);
    pixels.set([palette[at], palette[at + 1], palette[at + 2], 255 * Math.abs(t)], 4 * i);
  });
  paint(canvas, height, width, pixels);
}

function luminance(at) {
  const linear = [0, 1, 2].map(i => palette[at + i] / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}
function paintTokens(card) {
  const { values, scale } = card.map;
  card.tokens.replaceChildren(...data.tokens[state.example].map((token, i) => {
    const span = make("span", "token"), number = make("small", "", format(values[i], 3)), at = part(values[i], scale);
    span.append(token, number);
    span.title = exact(values[i], card.map);
    span.style.background = css(at);
    span.style.color = luminance(shade(at)) > 0.179 ? "#000" : "#fff";
    span.onpointerenter = () => read(card, `token ${i} “${token}”`, exact(values[i], card.map));
    return span;
  }));
}

// A card for the input, and one for each method.
function card(name, method) {
  const figure = make("figure", "card"), made = { name, method, figure, map: null };
  figure.append(make("figcaption", "", name));
  if (pictures) {
    const map = made.stack = make("div", "map");
    made.cursor = make("div", "cursor");
    made.cursor.hidden = true;
    map.append(made.under = make("canvas", "under"), made.heat = make("canvas", "heat"), made.cursor);
    map.style.aspectRatio = `${data.images.width} / ${data.images.height}`;
    map.style.width = `min(100%, ${75 * data.images.width / data.images.height}vh)`; // as high as the window, at most
    if (method) listen(made, map);
    else map.setAttribute("role", "img");
    figure.append(map);
  } else {
    figure.append(made.tokens = make("p", "tokens"));
  }
  if (!method) return made;
  const below = make("div", "below"), reading = make("div", "reading"), paper = make("div", "paper");
  reading.append(made.value = make("output", "value"), made.where = make("span", "where"));
  paper.append(made.bar = make("div", "bar"));
  made.missing = make("p", "missing");
  below.append(made.missing, reading, paper, made.ticks = make("div", "ticks"), made.caption = make("div", "caption"));
  below.append(made.sums = make("div", "sums"));
  figure.append(below);
  return made;
}
function listen(made, map) {
  Object.assign(map, { tabIndex: 0 });
  map.setAttribute("role", "application");
  map.setAttribute("aria-describedby", "keys");
  map.onpointermove = map.onpointerdown = event => {
    const box = map.getBoundingClientRect();
    point([(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width]);
  };
  map.onpointerleave = () => point(null);
  map.onfocus = () => { made.value.setAttribute("aria-live", "polite"); if (!state.at) point([0, 0]); };
  map.onblur = () => { made.value.removeAttribute("aria-live"); point(null); };
  map.onkeydown = event => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step || !made.map) return;
    event.preventDefault();
    const times = event.shiftKey ? 10 : 1;
    point(pixelOf(made.map).map((i, side) => (i + times * step[side] + 0.5) / made.map.shape[side]));
  };
}
// The pixel of a map that lies at the place that is pointed at.
function pixelOf({ shape }) {
  return state.at.map((part, side) => Math.min(shape[side] - 1, Math.max(0, Math.floor(part * shape[side]))));
}
function read(made, where, value) {
  made.where.textContent = where;
  made.value.textContent = value;
}
function point(at) {
  state.at = at && at.map(part => Math.min(1, Math.max(0, part)));
  for (const made of cards) {
    if (!made.map) continue;
    made.cursor.hidden = !at;
    if (!at) {
      read(made, "point at it for values", "");
      continue;
    }
    const [row, column] = pixelOf(made.map), [height, width] = made.map.shape;
    const sides = { left: column / width, top: row / height, width: 1 / width, height: 1 / height };
    for (const [side, size] of Object.entries(sides)) made.cursor.style[side] = `${100 * size}%`;
    read(made, `row ${row}, column ${column}`, exact(made.map.values[row * width + column], made.map));
  }
}

function drawScale(made) {
  const { scale, sum, least, most } = made.map, opacity = strength();
  const stops = Array.from({ length: 33 }, (_, i) => scale.signed ? i / 16 - 1 : i / 32);
  const seen = t => pictures ? css(t, opacity * Math.abs(t)) : css(t);
  made.bar.style.background = `linear-gradient(to right, ${stops.map(seen).join(", ")})`;
  const low = [(scale.below ? "≤ " : "") + format(-scale.limit, 3), "0"];
  const ticks = [...(scale.signed ? low : ["0"]), (scale.above ? "≥ " : "") + format(scale.limit, 3)];
  made.ticks.replaceChildren(...ticks.map(text => make("span", "", text)));
  made.caption.textContent = scale.caption;
  made.sums.textContent = `sum ${format(sum, 6)}, smallest ${format(least, 6)}, largest ${format(most, 6)}`;
}
const strength = () => pictures ? $("opacity").value / 100 : 1;
function fade() {
  $("percent").textContent = `${$("opacity").value} %`;
  for (const made of cards) {
    if (!made.map) continue;
    if (pictures) made.heat.style.opacity = strength();
    drawScale(made);
  }
}

// The targets of all methods; a method without targets has its one map for each.
const targets = [...new Set(data.methods.flatMap(method => method.targets.map(target => target.name)))].filter(Boolean);
function entryOf(method) {
  const found = method.targets.find(target => target.name === "" || target.name === targets[state.target]);
  return found && found.maps[state.example];
}
function tabs() {
  const list = $("targets"), last = targets.length - 1;
  const select = i => { state.target = i; draw(); list.children[i].focus(); };
  list.hidden = !targets.length;
  list.replaceChildren(...targets.map((name, i) => {
    const tab = Object.assign(make("button", "", name), { type: "button", tabIndex: i === state.target ? 0 : -1 });
    tab.onclick = () => select(i);
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-selected", String(i === state.target));
    tab.setAttribute("aria-controls", "view");
    tab.onkeydown = event => {
      const to = { ArrowRight: i < last ? i + 1 : 0, ArrowLeft: i ? i - 1 : last, Home: 0, End: last }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      select(to);
    };
    return tab;
  }));
}

const cards = [...(pictures ? [card("input", null)] : []), ...data.methods.map(method => card(method.name, method))];
let turn = 0; // what was asked for last is drawn, whatever was decoded first
async function draw() {
  const mine = ++turn;
  document.body.dataset.ready = "false";
  tabs();
  const image = pictures ? await imageOf(state.example) : null;
  const maps = await Promise.all(cards.map(made => made.method && entryOf(made.method) && mapOf(entryOf(made.method))));
  if (mine !== turn) return;
  const title = data.titles[state.example];
  cards.forEach((made, i) => {
    made.map = maps[i] || null;
    const what = [made.name, made.method && targets[state.target], title].filter(Boolean).join(", ");
    if (pictures) {
      paint(made.under, data.images.height, data.images.width, image);
      made.stack.setAttribute("aria-label", what);
      made.heat.hidden = !made.map;
      if (made.map) paintHeat(made.heat, made.map);
    } else if (made.map) {
      made.figure.setAttribute("aria-label", what);
      paintTokens(made);
      read(made, "point at a token for its value", "");
    }
    if (!made.method) return;
    made.missing.hidden = Boolean(made.map);
    made.missing.textContent = `no map for ${targets[state.target]}`;
    for (const part of [made.bar.parentElement, made.ticks, made.caption, made.sums]) part.hidden = !made.map;
    if (!made.map) read(made, "", "");
    if (made.tokens) made.tokens.hidden = !made.map;
  });
  if (pictures) point(state.at);
  fade();
  named(title);
  document.body.dataset.ready = "true";
}
function named(title) {
  const found = data.predictions && data.predictions[state.example];
  $("name").textContent = title;
  $("prediction").hidden = !found;
  $("previous").disabled = state.example === 0;
  $("next").disabled = state.example === data.titles.length - 1;
  if (!found) return;
  $("class").textContent = found.name;
  $("meter").hidden = $("probability").hidden = found.probability === null;
  if (found.probability === null) return;
  $("meter").value = found.probability;
  $("probability").textContent = `${(100 * found.probability).toFixed(1)} %`;
}
function go(i) {
  if (i < 0 || i >= data.titles.length) return;
  state.example = i;
  $("example").value = i;
  draw();
}

$("view").append(...cards.map(made => made.figure));
$("view").classList.toggle("text", !pictures);
$("example").replaceChildren(...data.titles.map((title, i) => new Option(`${i + 1} of ${data.titles.length}: ${title}`, i)));
$("examples").hidden = data.titles.length < 2;
$("example").onchange = () => go(Number($("example").value));
$("previous").onclick = () => go(state.example - 1);
$("next").onclick = () => go(state.example + 1);
$("opacity").oninput = fade;
$("smooth").onchange = draw;
$("controls").onsubmit = event => event.preventDefault();
$("slider").hidden = $("smoothing").hidden = !pictures;
$("note").textContent = data.note;
$("keys").textContent = (data.titles.length > 1 ? "N and P: the next and the previous example. " : "")
  + (pictures ? "On a map, the arrow keys move to a pixel, with Shift by ten; all maps show their value there." : "");
document.onkeydown = event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input[type=text]")) return;
  if (event.key === "n" || event.key === "N") go(state.example + 1);
  if (event.key === "p" || event.key === "P") go(state.example - 1);
};
draw();
