const state = { example: 0, target: 0, at: null }; // at: the place that is pointed at, from 0 to 1 in both directions
const pictures = Boolean(data.images);

// Bytes as they were written, and numbers made of them.
async function inflated(text) {
  const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
function numbers(raw, { bytes: size, unit }) {
  const count = raw.length / size;
  if (unit !== null) { // whole multiples of the unit: 0, -1, 1, -2, 2, ...
    return Float64Array.from({ length: count }, (_, i) => {
      let code = 0;
      for (let plane = size - 1; plane >= 0; plane--) code = 256 * code + raw[plane * count + i];
      return Number(((code % 2 ? -(code + 1) / 2 : code / 2) * unit).toPrecision(15));
    });
  }
  const whole = new DataView(new ArrayBuffer(raw.length));
  for (let plane = 0; plane < size; plane++) {
    for (let i = 0; i < count; i++) whole.setUint8(size * i + plane, raw[plane * count + i]);
  }
  const read = i => size === 4 ? whole.getFloat32(4 * i, true) : whole.getFloat64(8 * i, true);
  return Float64Array.from({ length: count }, (_, i) => read(i));
}

// What was looked at last stays decoded.
const KEPT = 100, decoded = new Map();
async function once(entry, decode) {
  if (!decoded.has(entry)) decoded.set(entry, decode(entry));
  if (decoded.size > KEPT) decoded.delete(decoded.keys().next().value);
  return decoded.get(entry);
}
const mapOf = entry => once(entry, async () => ({ ...entry, values: numbers(await inflated(entry.values), entry) }));
const imageOf = i => once(data.images.values[i], async entry => levels(await inflated(entry.values), entry.halved));

// From the differences along rows to [red, green, blue, 255] for each pixel.
function levels(raw, halved) {
  const { height, width, channels } = data.images, shown = new Uint8ClampedArray(4 * height * width);
  const half = [Math.ceil(height / 2), Math.ceil(width / 2)];
  const shapes = halved ? [[height, width], half, half] : Array.from({ length: channels }, () => [height, width]);
  let start = 0;
  const planes = shapes.map(([rows, columns]) => {
    const plane = raw.subarray(start, start += rows * columns);
    for (let i = 0; i < plane.length; i++) if (i % columns) plane[i] += plane[i - 1];
    return plane;
  });
  for (let row = 0, i = 0; row < height; row++) {
    for (let column = 0; column < width; column++, i++) {
      let [red, green, blue] = planes.length === 1 ? [planes[0][i], planes[0][i], planes[0][i]] : planes.map(plane => plane[i]);
      if (halved) {
        const at = (row >> 1) * half[1] + (column >> 1), bright = planes[0][i];
        blue = bright + (planes[1][at] - 128) / 0.564;
        red = bright + (planes[2][at] - 128) / 0.713;
        green = (bright - 0.299 * red - 0.114 * blue) / 0.587;
      }
      shown.set([red, green, blue, 255], 4 * i);
    }
  }
  return shown;
}
