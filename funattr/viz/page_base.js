"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));

// With as many digits, and without zeros at the end.
function format(value, digits) {
  const size = Math.abs(value), short = size === 0 || (size >= 1e-3 && size < 1e6);
  return short ? String(Number(value.toPrecision(digits))) : value.toExponential(digits - 1).replace(/\.?0*e/, "e");
}
function make(tag, name, text = "") {
  return Object.assign(document.createElement(tag), { className: name, textContent: text });
}
