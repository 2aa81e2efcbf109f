/** The self-test of an exported file: its output for one synthetic chip; as `sar2optical/engines/self_test.py`. */

import type { ModelSignature } from "./signature";

const KEY = "sar2optical.known_answer";
const PARITY_KEY = "sar2optical.parity_psnr_db";
const STEP = 16;
const LEVELS = 127;
const CELL = 32;

/** PSNR in dB of an engine's output, and the least that it must reach; null where the file has no self-test. */
export function agreement(
  image: Float32Array,
  window: number,
  metadata: ReadonlyMap<string, string>,
): { found: number; least: number } | null {
  const stored = metadata.get(KEY);
  const parity = metadata.get(PARITY_KEY);
  if (stored === undefined || parity === undefined) return null;
  const expected = Int8Array.from(atob(stored), (character) => character.charCodeAt(0));
  const least = Math.max(Math.min(30, Number(parity) - 10), 25);
  const side = Math.floor((window - STEP / 2 - 1) / STEP) + 1;
  if (expected.length !== 3 * side * side) return { found: NaN, least };
  let squares = 0;
  for (let at = 0; at < expected.length; at++) {
    const channel = Math.floor(at / (side * side));
    const y = (Math.floor(at / side) % side) * STEP + STEP / 2;
    const x = (at % side) * STEP + STEP / 2;
    squares += (expected[at] / LEVELS - image[(channel * window + y) * window + x]) ** 2;
  }
  return { found: 10 * Math.log10(4 / Math.max(squares / expected.length, 1e-12)), least };
}

/** Input of the self-test: patches of land under four-look speckle; Float32 (channels, window, window). */
export function selfTestInput({ window, channels }: ModelSignature): Float32Array {
  const chip = new Float32Array(window * window);
  for (let row = 0; row < window; row++) {
    for (let col = 0; col < window; col++) {
      const land = 0.1 + 0.7 * uniform(Math.floor(row / CELL), Math.floor(col / CELL), 0);
      let power = 0;
      for (let look = 1; look < 5; look++) power -= Math.log(uniform(row, col, look)) / 4;
      chip[row * window + col] = Math.max(-1, Math.min(1, 2 * land * Math.sqrt(power) - 1));
    }
  }
  const input = new Float32Array(channels * chip.length);
  for (let channel = 0; channel < channels; channel++) input.set(chip, channel * chip.length);
  return input;
}

/** Hash a pixel's position to a number in (0, 1) (constants: C. Wellons, hash-prospector, 2018). */
function uniform(row: number, col: number, stream: number): number {
  let mixed = Math.imul(row, 0x9e3779b1) ^ Math.imul(col, 0x85ebca77) ^ Math.imul(stream, 0x27d4eb2f);
  for (const factor of [0x2c1b3c6d, 0x297a2d39]) mixed = Math.imul(mixed ^ (mixed >>> 15), factor);
  mixed ^= mixed >>> 15;
  return ((mixed >>> 0) + 0.5) / 2 ** 32;
}
