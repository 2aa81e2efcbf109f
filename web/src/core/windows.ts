/** Window grid: positions of windows in a scene; as `sar2optical/tiling/windows.py`. */

/** Least number of pixels that neighbouring windows share. */
export const DEFAULT_OVERLAP = 64;

/** Rectangle of pixels: first and past-the-last row and column. */
export interface Area {
  readonly rows: readonly [number, number];
  readonly cols: readonly [number, number];
}

export interface WindowGrid {
  readonly height: number;
  readonly width: number;
  readonly window: number;
  /** First row of each row of windows, ascending. */
  readonly rows: readonly number[];
  /** First column of each column of windows, ascending. */
  readonly cols: readonly number[];
}

export function windowGrid(height: number, width: number, window: number, overlap: number): WindowGrid {
  if (!(overlap >= 0 && overlap < window)) throw new Error(`overlap is ${overlap}: give 0 to ${window - 1}`);
  const starts = (length: number): number[] => {
    const last = Math.max(length - window, 0);
    const steps = Math.ceil(last / (window - overlap));
    return Array.from({ length: steps + 1 }, (_, k) => Math.floor((k * last) / Math.max(steps, 1)));
  };
  return { height, width, window, rows: starts(height), cols: starts(width) };
}

/** Indices of the windows along one axis that have a pixel from `first` to before `stop`. */
export function touching(starts: readonly number[], window: number, first: number, stop: number): number[] {
  return [...starts.keys()].filter((k) => starts[k] < stop && starts[k] + window > first);
}
