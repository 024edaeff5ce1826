// COCO's compressed run lengths: columns first, background first, each count a little-endian number of 5-bit digits
// that from the fourth on is the difference to the count two before it.

/** The counts of a compressed string, as numbers; throws a RangeError where it is not one. */
export function runLengths(text) {
  const counts = [];
  for (let at = 0; at < text.length; ) {
    let value = 0;
    let digit = 0;
    for (let shift = 0, more = true; more; shift += 5) {
      digit = text.charCodeAt(at++) - 48;
      if (!(digit >= 0 && digit < 64) || shift > 30) throw new RangeError("run lengths that are not COCO's");
      value |= (digit & 31) << shift;
      more = (digit & 32) > 0;
      if (!more && digit & 16 && shift < 27) value |= -1 << (shift + 5);
    }
    if (counts.length > 2) value += counts[counts.length - 2];
    if (value < 0) throw new RangeError("a run of negative length");
    counts.push(value);
  }
  return counts;
}

/**
 * The smallest part of a mask that holds all of its foreground.
 *
 * @param {{size: [number, number], counts: string}} rle size is [height, width]
 * @returns {{x: number, y: number, width: number, height: number, data: Uint8Array}} data is row by row, 1 where the
 *   mask is; width and height are 0 for an empty mask. Throws a RangeError where the runs do not fill the size.
 */
export function decode(rle) {
  const [rows, columns] = rle.size;
  const counts = runLengths(rle.counts);
  const runs = []; // [first, one past the last] of the foreground, counted down the columns
  let at = 0;
  let [left, top, right, bottom] = [columns, rows, 0, 0];
  counts.forEach((count, k) => {
    const start = at;
    at += count;
    if (k % 2 === 0 || !count) return;
    runs.push([start, at]);
    const [first, last] = [Math.floor(start / rows), Math.floor((at - 1) / rows)];
    left = Math.min(left, first);
    right = Math.max(right, last + 1);
    top = Math.min(top, first === last ? start % rows : 0);
    bottom = Math.max(bottom, first === last ? ((at - 1) % rows) + 1 : rows);
  });
  if (at !== rows * columns) throw new RangeError(`run lengths of ${at} pixels for a mask of ${rows} x ${columns}`);
  const [width, height] = [Math.max(0, right - left), Math.max(0, bottom - top)];
  const data = new Uint8Array(width * height);
  for (const [start, stop] of runs) {
    for (let pixel = start; pixel < stop; pixel++) {
      const column = Math.floor(pixel / rows);
      data[(pixel - column * rows - top) * width + column - left] = 1;
    }
  }
  return { x: width ? left : 0, y: height ? top : 0, width, height, data };
}
