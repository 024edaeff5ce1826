// Masks as COCO's compressed run lengths: column by column, background first.

/** The (height × width) mask, row by row, 1 on the object. */
export function decode(counts, height, width) {
  const runs = [];
  for (let p = 0; p < counts.length; ) {
    let value = 0, shift = 0, letter;
    do {
      letter = counts.charCodeAt(p++) - 48;
      value |= (letter & 31) << shift;
      shift += 5;
    } while (letter & 32);
    if (letter & 16 && shift < 32) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  const mask = new Uint8Array(height * width);
  let at = 0;
  runs.forEach((length, n) => {
    if (n % 2) for (let i = at; i < at + length; i++) mask[(i % height) * width + Math.floor(i / height)] = 1;
    at += length;
  });
  return mask;
}

/** The run lengths of a mask that `decode` would give back. */
export function encode(mask, height, width) {
  const runs = [];
  let length = 0, last = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      const value = mask[y * width + x];
      if (value !== last) {
        runs.push(length);
        length = 0;
        last = value;
      }
      length++;
    }
  }
  runs.push(length);
  return runs.map((run, n) => letters(n > 2 ? run - runs[n - 2] : run)).join("");
}

function letters(value) {
  let text = "", more = true;
  while (more) {
    let letter = value & 31;
    value >>= 5;
    more = letter & 16 ? value !== -1 : value !== 0;
    if (more) letter |= 32;
    text += String.fromCharCode(letter + 48);
  }
  return text;
}
