const { columns, answer, log_probs: logs } = data, methods = Object.entries(data.attributions);
const sums = methods.map(([, rows]) => columns.map((_, i) => rows.reduce((sum, row) => sum + row[i], 0)));
const rowsOf = method => [...methods[method][1], sums[method]]; // the last is the sum over the answer
const SUM = answer.length;
const limit = Math.max(...methods.map((_, m) => Math.max(...rowsOf(m).map(largest)))) || 1;
const signed = methods.some(([, rows]) => rows.some(row => row.some(value => value < 0)));
// The row that is pointed at or has the focus, and the column; null: none.
const state = { method: 0, row: null, focus: null, column: null };
const dark = matchMedia("(prefers-color-scheme: dark)"), colours = document.querySelector("meta[name=colours]");
let palette;

function largest(row) {
  return row.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}
// The strength is the root of the size: rows are seen beside their sums, and small values beside large ones. The ticks say so.
const strength = value => Math.sign(value) * Math.sqrt(Math.abs(value) / limit);
const shade = value => 3 * Math.min(255, Math.max(0, Math.floor(128 * (1 + strength(value)))));
const css = at => `rgb(${palette[at]}, ${palette[at + 1]}, ${palette[at + 2]})`;
function luminance(at) {
  const linear = [0, 1, 2].map(i => palette[at + i] / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}
// Exactly 0 has no colour: what comes later than a token cannot have made it.
function tint(element, value) {
  const at = shade(value);
  element.style.backgroundColor = value === 0 ? "" : css(at);
  element.style.color = value === 0 ? "" : luminance(at) > 0.179 ? "#000" : "#fff";
}

// What cannot be seen is shown as a sign.
function seen(text) {
  const signs = { "\n": "↵", "\t": "⇥\t", "\r": "␍" };
  const parts = text === "" ? ["∅"] : text.split(/([\u0000-\u001f\u007f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff])/);
  return parts.filter(Boolean).map(part => {
    const code = part.codePointAt(0), sign = text === "" ? part : signs[part];
    const hidden = sign === undefined && part.length === 1 && /[\u0000-\u001f\u007f\u200b-\u206f\ufeff]/.test(part);
    const shown = hidden ? `\\u${code.toString(16).padStart(4, "0")}` : sign;
    return shown === undefined ? part : make("i", "", shown);
  });
}
const quoted = text => JSON.stringify(text);
const digits = value => (value > 0 ? "+" : "") + format(value, 4);
const full = value => (value > 0 ? "+" : "") + format(value, 9);

const tokens = answer.map((text, t) => {
  const button = make("button", "");
  button.type = "button";
  button.dataset.row = t;
  button.append(make("span", ""));
  button.firstChild.append(...seen(text));
  if (logs) button.append(make("small", "", format(logs[t], 3)));
  button.title = `token ${t}, ${quoted(text)}${logs ? `, log p ${format(logs[t], 9)}` : ""}`;
  button.onpointerenter = () => point({ row: t });
  button.onpointerleave = () => point({ row: null });
  button.onclick = () => button.focus();
  button.onfocus = () => point({ focus: t });
  button.onblur = () => point({ focus: null });
  button.onkeydown = event => {
    const to = { ArrowRight: t + 1, ArrowDown: t + 1, ArrowLeft: t - 1, ArrowUp: t - 1, Home: 0, End: SUM - 1 }[event.key];
    if (event.key === "Escape") button.blur();
    if (to === undefined) return;
    event.preventDefault();
    tokens[Math.min(SUM - 1, Math.max(0, to))].focus();
  };
  return button;
});
const spans = columns.map((text, i) => {
  const span = make("span", "");
  span.dataset.column = i;
  span.append(...seen(text));
  span.onpointerenter = () => point({ column: i });
  span.onpointerleave = () => point({ column: null });
  return span;
});

const rowOf = () => state.row ?? state.focus ?? SUM;
function point(changes) {
  Object.assign(state, changes);
  show();
}
let before = {};
function show() {
  const row = rowOf(), values = rowsOf(state.method)[row], method = state.method;
  if (before.row !== row || before.method !== method || before.palette !== palette) {
    spans.forEach((span, i) => {
      tint(span, values[i]);
      span.title = `column ${i}, ${quoted(columns[i])}: ${full(values[i])}`;
    });
  }
  if (before.column !== undefined && before.column !== null) spans[before.column].classList.remove("at");
  if (state.column !== null) spans[state.column].classList.add("at");
  tokens.forEach((token, t) => {
    token.classList.toggle("shown", t === row);
    tint(token, state.column === null ? 0 : methods[method][1][t][state.column]);
  });
  before = { row, method, column: state.column, palette };
  tell(row, values);
  if (typeof cursor === "function") cursor();
}
function tell(row, values) {
  const total = values.reduce((sum, value) => sum + value, 0);
  const name = row === SUM ? "the whole answer" : `token ${row} ${quoted(answer[row])}`;
  const log = !logs ? "" : `, log p ${format(row === SUM ? logs.reduce((sum, p) => sum + p, 0) : logs[row], 4)}`;
  $("what").textContent = state.column === null
    ? `${name}${log}; all columns sum to`
    : `column ${state.column} ${quoted(columns[state.column])} for ${name}`;
  $("value").textContent = state.column === null ? digits(total) : full(values[state.column]);
}

function coloured() {
  palette = bytes(dark.matches ? colours.dataset.dark : colours.content);
  const stops = Array.from({ length: 33 }, (_, i) => signed ? i / 16 - 1 : i / 32).map(t => css(shade(limit * t * Math.abs(t))));
  $("bar").style.background = `linear-gradient(to right, ${stops.join(", ")})`;
}
function tabs() {
  const list = $("methods"), last = methods.length - 1;
  const select = i => { state.method = i; tabs(); show(); paint(); list.children[i].focus(); };
  list.hidden = !last;
  list.replaceChildren(...methods.map(([name], i) => {
    const tab = Object.assign(make("button", "", name), { type: "button", tabIndex: i === state.method ? 0 : -1 });
    tab.onclick = () => select(i);
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-selected", String(i === state.method));
    tab.setAttribute("aria-controls", "columns");
    tab.onkeydown = event => {
      const to = { ArrowRight: i < last ? i + 1 : 0, ArrowLeft: i ? i - 1 : last, Home: 0, End: last }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      select(to);
    };
    return tab;
  }));
}
