/** Choose the parts of a scene that stand for all of it; as `sar2optical/scene/sampling.py`. */

/** Pixels up to which a scene is sampled as a whole. */
export const WHOLE_UP_TO = 32_000_000;
/** Largest sample, in pixels. */
export const SAMPLE_LIMIT = 4_000_000;
/** Smallest sample, in pixels: a sparse scene is sampled again on a finer grid below it. */
export const SAMPLE_LEAST = 100_000;
/** Shortest run of one fill value, in pixels. */
export const LEAST_RUN = 8;

const LEAST_ROWS = 64;
const MOST_ROWS = 512;

/** Rows that are read together, and the ranges of columns in them that are sampled. */
export interface Band {
  readonly rows: readonly [number, number];
  readonly cols: readonly (readonly [number, number])[];
}

/** Cover a scene with bands of rows; in a large one, every second pair of blocks is sampled, as on a chessboard. */
export function bandsOf(height: number, width: number, block: readonly [number, number], whole = false): Band[] {
  const tall = Math.max(Math.floor(LEAST_ROWS / block[0]) * block[0], block[0]);
  const all = whole || height * width <= WHOLE_UP_TO;
  const step = all ? Math.max(1, Math.floor(MOST_ROWS / tall)) * tall : tall;
  const bands: Band[] = [];
  for (let row = 0, k = 0; row < height; row += step, k++) {
    const rows = [row, Math.min(row + step, height)] as const;
    bands.push({ rows, cols: all ? [[0, width]] : chessboard(width, block[1], k) });
  }
  return bands;
}

function chessboard(width: number, wide: number, k: number): [number, number][] {
  const chosen: [number, number][] = [];
  for (let col = 0, n = 0; col < Math.max(1, width - LEAST_RUN + 1); col += 2 * wide, n++) {
    const stop = width - (col + 2 * wide) >= LEAST_RUN ? col + 2 * wide : width;
    if ((k + n) % 2 === 0) chosen.push([col, stop]);
  }
  return chosen;
}

export function covered(bands: readonly Band[]): number {
  let pixels = 0;
  for (const { rows, cols } of bands) for (const [col, stop] of cols) pixels += (rows[1] - rows[0]) * (stop - col);
  return pixels;
}

/** Spacing of a grid of about `SAMPLE_LIMIT` points on so many pixels; odd, for patterns are even. */
export function gridStep(pixels: number): number {
  return Math.max(1, Math.ceil(Math.sqrt(pixels / SAMPLE_LIMIT))) | 1;
}
