/** Blend overlapping windows into finished rows; as `sar2optical/tiling/blend.py`. */

import type { Area, WindowGrid } from "./windows";

/**
 * Blend weights of each window's pixels along one axis: a raised cosine over the pixels that neighbours share,
 * divided by the sum. Returns one Float32Array (window) per start; the weights of all windows sum to 1.
 */
export function axisWeights(starts: readonly number[], window: number): Float32Array[] {
  const raw = starts.map(() => new Float64Array(window).fill(1));
  for (let k = 1; k < starts.length; k++) {
    const shared = starts[k - 1] + window - starts[k];
    for (let n = 0; n < shared; n++) {
      const ramp = 0.5 - 0.5 * Math.cos((Math.PI * (n + 0.5)) / shared);
      raw[k][n] *= ramp;
      raw[k - 1][window - 1 - n] *= ramp;
    }
  }
  const total = new Float64Array(starts[starts.length - 1] + window);
  raw.forEach((weights, k) => weights.forEach((weight, n) => (total[starts[k] + n] += weight)));
  return raw.map((weights, k) => Float32Array.from(weights, (weight, n) => weight / total[starts[k] + n]));
}

/** Finished rows of an area. */
export interface Strip {
  /** First row, in the scene. */
  readonly start: number;
  /** Float32 (channels, rows, columns of the area), one after another. */
  readonly image: Float32Array;
  readonly rows: number;
}

/** Weighted sums of the windows of an area, one row of windows at a time. Windows without a valid pixel are left out. */
export class Blender {
  private readonly down: Float32Array[];
  private readonly across: Float32Array[];
  private readonly sum: Float32Array;
  private readonly columns: number;

  constructor(
    private readonly grid: WindowGrid,
    private readonly area: Area,
    private readonly channels = 3,
  ) {
    this.down = axisWeights(grid.rows, grid.window);
    this.across = axisWeights(grid.cols, grid.window);
    this.columns = area.cols[1] - area.cols[0];
    this.sum = new Float32Array(channels * grid.window * this.columns);
  }

  /** Add a window of the current row of windows. `image`: Float32 (channels, window, window). */
  add(row: number, col: number, image: Float32Array): void {
    const { window } = this.grid;
    const left = this.grid.cols[col];
    const first = Math.max(left, this.area.cols[0]) - left;
    const stop = Math.min(left + window, this.area.cols[1]) - left;
    const across = this.across[col];
    for (let channel = 0; channel < this.channels; channel++) {
      for (let y = 0; y < window; y++) {
        const weight = this.down[row][y];
        const from = (channel * window + y) * window;
        const to = (channel * window + y) * this.columns + left - this.area.cols[0];
        for (let x = first; x < stop; x++) this.sum[to + x] += image[from + x] * Math.fround(weight * across[x]);
      }
    }
  }

  /** Return the rows that no later window changes; null where none of them is in the area. */
  finish(row: number): Strip | null {
    const { grid, area, columns } = this;
    const start = grid.rows[row];
    const stop = row + 1 < grid.rows.length ? grid.rows[row + 1] : grid.height;
    const first = Math.max(start, area.rows[0]);
    const rows = Math.min(stop, area.rows[1]) - first;
    const image = new Float32Array(Math.max(0, this.channels * rows * columns));
    for (let channel = 0; channel < this.channels; channel++) {
      const from = channel * grid.window * columns;
      if (rows > 0) {
        const at = from + (first - start) * columns;
        image.set(this.sum.subarray(at, at + rows * columns), channel * rows * columns);
      }
      const done = Math.min(stop - start, grid.window) * columns;
      this.sum.copyWithin(from, from + done, from + grid.window * columns);
      this.sum.fill(0, from + grid.window * columns - done, from + grid.window * columns);
    }
    return rows > 0 ? { start: first, image, rows } : null;
  }
}
