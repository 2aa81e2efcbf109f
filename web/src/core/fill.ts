/** Fill invalid pixels of model input by mirroring valid ones; as `sar2optical/tiling/fill.py`. */

const NOWHERE = 2 ** 31 - 1;

/**
 * Fill invalid pixels by mirroring at the nearest valid pixel of the row or the column, whichever is nearer; pixels
 * without either are filled from those filled before.
 *
 * @param image Float32 (side, side), changed in place; values where `valid` is 0 are not used.
 * @param valid 0 or 1 (side, side).
 */
export function mirrorInvalid(image: Float32Array, valid: Uint8Array, side: number): void {
  let usable = valid;
  while (usable.includes(0) && usable.includes(1)) {
    const across = mirror(usable, side, side, 1);
    const down = mirror(usable, side, 1, side);
    const filled = image.slice();
    const next = new Uint8Array(usable.length);
    for (let at = 0; at < image.length; at++) {
      const byRow = across.distance[at] <= down.distance[at];
      filled[at] = image[byRow ? across.source[at] : down.source[at]];
      next[at] = Math.min(across.distance[at], down.distance[at]) < NOWHERE ? 1 : 0;
    }
    image.set(filled);
    usable = next;
  }
}

/**
 * Find the pixel of its line that each pixel mirrors, and its distance from the edge of the mirror. Where the hole is
 * wider than the valid run, the run is mirrored back and forth.
 *
 * @param line Step from a line to the next one. @param step Step from a pixel to the next one of its line.
 */
function mirror(valid: Uint8Array, side: number, line: number, step: number): { source: Int32Array; distance: Int32Array } {
  const source = new Int32Array(valid.length);
  const distance = new Int32Array(valid.length);
  const runStart = new Int32Array(side); // first pixel of the valid run that ends at or contains a pixel
  const runStop = new Int32Array(side);
  const before = new Int32Array(side);
  const after = new Int32Array(side);
  for (let n = 0; n < side; n++) {
    const base = n * line;
    for (let k = 0, last = -1, start = 0; k < side; k++) {
      if (valid[base + k * step]) {
        if (last !== k - 1 || k === 0) start = k;
        last = k;
      }
      before[k] = last;
      runStart[k] = start;
    }
    for (let k = side - 1, next = NOWHERE, stop = side; k >= 0; k--) {
      if (valid[base + k * step]) {
        if (next !== k + 1 || k === side - 1) stop = k + 1;
        next = k;
      }
      after[k] = next;
      runStop[k] = stop;
    }
    for (let k = 0; k < side; k++) {
      const at = base + k * step;
      const toBefore = before[k] >= 0 ? k - before[k] : NOWHERE;
      const toAfter = after[k] < NOWHERE ? after[k] - k : NOWHERE;
      distance[at] = Math.min(toBefore, toAfter);
      source[at] = at;
      if (valid[at] || distance[at] === NOWHERE) continue;
      const nearerBefore = toBefore <= toAfter;
      const edge = nearerBefore ? before[k] : after[k];
      const length = nearerBefore ? edge + 1 - runStart[k] : runStop[k] - edge;
      const swing = (distance[at] - 1) % (2 * length);
      const inwards = swing < length ? swing : 2 * length - 1 - swing;
      source[at] = base + (nearerBefore ? edge - inwards : edge + inwards) * step;
    }
  }
  return { source, distance };
}
