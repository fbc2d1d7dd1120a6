// The matrix: a pixel for each value, drawn as large as there is room for.
const ROW = 20;
let wide = 4;
function laid() {
  const names = $("names"), room = $("all").clientWidth - names.offsetWidth - 2;
  wide = Math.max(4, Math.min(28, Math.floor(room / columns.length)));
  $("canvas").style.width = `${wide * columns.length}px`;
  $("canvas").style.height = `${ROW * (SUM + 1)}px`;
  const upright = wide >= 14, step = upright ? 1 : [10, 20, 50, 100].find(n => n * wide >= 50) ?? 200;
  $("heads").classList.toggle("upright", upright);
  $("heads").replaceChildren(...columns.flatMap((text, i) => {
    if (i % step) return [];
    const head = make("span", "", upright ? "" : `${i}`);
    if (upright) head.append(...seen(text));
    head.style.width = `${wide * Math.min(step, columns.length - i)}px`;
    return [head];
  }));
}
function paint() {
  const rows = rowsOf(state.method), pixels = new Uint8ClampedArray(4 * rows.length * columns.length);
  rows.forEach((row, t) => row.forEach((value, i) => {
    const at = shade(value);
    if (value !== 0) pixels.set([palette[at], palette[at + 1], palette[at + 2], 255], 4 * (t * columns.length + i));
  }));
  const canvas = $("canvas");
  Object.assign(canvas, { height: rows.length, width: columns.length });
  canvas.getContext("2d").putImageData(new ImageData(pixels, columns.length, rows.length), 0, 0);
}
function cursor() {
  const box = $("cell"), row = rowOf();
  box.hidden = state.column === null;
  if (box.hidden) return;
  const sides = { left: wide * state.column, top: ROW * row, width: wide, height: ROW };
  for (const [side, size] of Object.entries(sides)) box.style[side] = `${size}px`;
}
const within = (i, count) => Math.min(count - 1, Math.max(0, i));
const inMatrix = (row, column) => point({ row: row === SUM ? null : row, column });

const matrix = $("matrix"), cells = $("cells");
cells.onpointermove = cells.onpointerdown = event => {
  const box = cells.getBoundingClientRect();
  const at = [Math.floor((event.clientY - box.top) / ROW), Math.floor((event.clientX - box.left) / wide)];
  inMatrix(within(at[0], SUM + 1), within(at[1], columns.length));
};
cells.onpointerleave = () => point({ row: null, column: null });
matrix.onfocus = () => { if (state.column === null && matrix.matches(":focus-visible")) inMatrix(0, 0); };
matrix.onblur = () => point({ row: null, column: null });
matrix.onkeydown = event => {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  const ends = { Home: 0, End: columns.length - 1 };
  if (event.key === "Escape") matrix.blur();
  if (!step && !(event.key in ends)) return;
  event.preventDefault();
  const times = event.shiftKey ? 10 : 1, column = state.column ?? 0;
  if (step) inMatrix(within(rowOf() + times * step[0], SUM + 1), within(column + times * step[1], columns.length));
  else inMatrix(rowOf(), ends[event.key]);
  $("cell").scrollIntoView({ block: "nearest", inline: "nearest" });
};

$("answer").append(...tokens);
const blank = text => /^\s|\s$/.test(text);
$("columns").classList.toggle("words", columns.length > 1 && !columns.some(blank)); // tokens without the blanks between them
// A line ends where the text's does, and else not within a word.
$("columns").append(...spans.flatMap((span, i) => {
  const next = columns[i + 1] ?? " ";
  if (columns[i].includes("\n")) return [span, make("br", "")];
  return [span, blank(columns[i].slice(-1)) || blank(next[0] ?? "") ? "\u200b" : "\u2060"];
}));
$("names").append(...[...answer.map(text => seen(text)), ["sum"]].map(parts => {
  const line = make("div", "");
  line.style.height = `${ROW}px`;
  line.append(...parts);
  return line;
}));
const ticks = signed ? [-1, -0.25, 0, 0.25, 1] : [0, 0.0625, 0.25, 0.5625, 1];
$("ticks").append(...ticks.map(part => make("span", "", format(part * limit, 2))));
function drawn() {
  coloured();
  laid();
  paint();
  show();
}
dark.onchange = drawn;
window.onresize = () => { laid(); cursor(); };
tabs();
drawn();
document.body.dataset.ready = "true";
