/** Validity of pixels: nodata, NaN, and runs of zero; as `sar2optical/scene/{raster,nodata,scene}.py`. */

import type { Raster, Stored } from "./raster";
import { LEAST_RUN } from "./sampling";

/** Values of a rectangle in the scene's unit (0 where invalid), and 0 or 1 for each pixel. */
export interface Pixels {
  readonly values: Float32Array;
  readonly valid: Uint8Array;
  readonly width: number;
}

const BEYOND = 1e18;
const SENTINEL = -9999;
const LOWEST = -100;

/** Rules that turn stored values of a band into values and validity. */
export class Validity {
  /** Value of a stored 0; null for grey levels, which have no undeclared nodata. */
  readonly zero: number | null;
  /** Whether a single zero at the end of a row is the border: where no dB can be stored. */
  readonly zeroIsBorder: boolean;
  private readonly scale: number;
  private readonly offset: number;
  private readonly floor: number;
  private readonly nodata: number[];
  private readonly sentinels: Set<number>;

  constructor(raster: Raster, band: number, nodata: number | null) {
    const { scale, offset } = raster.bands.find(({ index }) => index === band)!;
    if (!(Number.isFinite(scale) && scale !== 0 && Number.isFinite(offset))) {
      throw new Error(`${raster.name}: declares a scale of ${scale} and an offset of ${offset}: correct the file`);
    }
    this.scale = scale;
    this.offset = offset;
    const plain = scale === 1 && offset === 0;
    const grey = raster.dtype === "uint8" && plain;
    this.zero = grey ? null : Math.fround(offset);
    this.zeroIsBorder = plain && raster.dtype.startsWith("uint");
    const lowest = Math.min(scale * SENTINEL + offset, LOWEST + 1);
    this.floor = scale > 0 ? Math.fround(lowest + Math.abs(lowest) * 1e-6) : -BEYOND;
    const stored = (value: number) => (raster.dtype === "float32" ? Math.fround(value) : value);
    this.nodata = [raster.nodata, nodata].filter((value) => value !== null).map(stored);
    const limit = { uint16: 65535, int16: 32767, uint32: 2 ** 32 - 1, int32: 2 ** 31 - 1 }[raster.dtype];
    const fill = limit === undefined || grey ? [] : [32767, 65535, limit].filter((value) => value <= limit);
    this.sentinels = new Set(fill.map((value) => Math.fround(value * scale + offset)));
  }

  /** Scale stored values; pixels without a measurement become 0 and invalid. */
  apply(stored: Stored, width: number): Pixels {
    const count = stored.values.length;
    const values = new Float32Array(count);
    const valid = new Uint8Array(count);
    const { scale, offset, floor } = this; // locals: this loop runs over the whole scene
    const [declared = NaN, given = NaN] = this.nodata;
    for (let at = 0; at < count; at++) {
      const raw = stored.values[at];
      const value = Math.fround(raw * scale + offset);
      if (value < BEYOND && value > floor && raw !== declared && raw !== given) {
        values[at] = value; // not for NaN
        valid[at] = 1;
      }
    }
    for (let at = 0; stored.mask && at < count; at++) {
      if (!stored.mask[at]) values[at] = valid[at] = 0;
    }
    return { values, valid, width };
  }

  /** Find a value that looks like undeclared nodata: a limit of the type, or one below any measurement, in a run. */
  suspect({ values, valid, width }: Pixels): number | null {
    const least = Math.min(...this.sentinels); // below it, and above LOWEST, values need no look-up
    for (let at = 0, run = 0; at < values.length; at++) {
      const value = values[at];
      const suspicious = (value <= LOWEST || value >= least) && valid[at] && (value <= LOWEST || this.sentinels.has(value));
      run = suspicious ? (run && at % width && values[at - 1] === value ? run + 1 : 1) : 0;
      if (run >= LEAST_RUN) return (value - this.offset) / this.scale;
    }
    return null;
  }
}

/** Zeros at both ends of each row of a scene: the border of a swath. */
export class Ends {
  private readonly counts: Int32Array;
  private readonly zeros: Int32Array;
  private looked = 0;

  constructor(
    private readonly height: number,
    private readonly zero: number | null,
    private readonly zeroIsBorder: boolean,
  ) {
    this.counts = new Int32Array(2 * height);
    this.zeros = new Int32Array(2 * height);
  }

  /** Look at whole rows. */
  look({ values, valid, width }: Pixels, row: number): void {
    if (this.zero === null) return;
    const rows = values.length / width;
    this.looked += rows;
    for (let y = 0; y < rows; y++) {
      for (const side of [0, 1]) {
        let count = 0;
        let zeros = 0;
        for (; count < width; count++) {
          const at = y * width + (side ? width - 1 - count : count);
          if (valid[at] && values[at] !== this.zero) break;
          zeros += valid[at];
        }
        this.counts[side * this.height + row + y] = count;
        this.zeros[side * this.height + row + y] = zeros;
      }
    }
  }

  /** Whether zeros are known to be nodata: in a run at the end of a row, or at the ends of many rows. */
  get known(): boolean {
    const least = this.zeroIsBorder ? 1 : LEAST_RUN;
    let some = 0;
    for (let k = 0; k < this.counts.length; k++) {
      if (this.zeros[k] === 0) continue;
      if (this.counts[k] >= least) return true;
      some += 1;
    }
    return some >= Math.max(LEAST_RUN, 0.1 * this.looked);
  }

  /** Number of pixels of the border at the left (0) or right (1) end of a row. */
  border(side: 0 | 1, row: number, known = this.known): number {
    const k = side * this.height + row;
    const alone = this.counts[k] < LEAST_RUN && !this.zeroIsBorder && !known;
    return this.zeros[k] === 0 || alone ? 0 : this.counts[k];
  }
}

/** Call `found` for each run of at least `LEAST_RUN` pixels along a row; returns the number of their pixels. */
export function longRuns(
  count: number,
  width: number,
  blank: (at: number) => boolean,
  found?: (first: number, stop: number) => void,
): number {
  let total = 0;
  for (let row = 0; row < count; row += width) {
    for (let x = 0, start = 0; x <= width; x++) {
      if (x < width && blank(row + x)) continue;
      if (x - start >= LEAST_RUN) {
        total += x - start;
        found?.(row + start, row + x);
      }
      start = x + 1;
    }
  }
  return total;
}
