/** A scene: values in a known unit, validity of each pixel, an overview and a sample of the whole for the stretch. */

import { percentile } from "../core/encoder";
import type { Unit } from "../core/signature";
import type { Area } from "../core/windows";
import { Ends, longRuns, Validity, type Pixels } from "./nodata";
import type { Raster } from "./raster";
import { bandsOf, covered, gridStep, LEAST_RUN, SAMPLE_LEAST, type Band } from "./sampling";

/** Grey picture of a scene: every `step`-th pixel. */
export interface Overview {
  readonly step: number;
  readonly height: number;
  readonly width: number;
  readonly values: Float32Array;
  readonly valid: Uint8Array;
}

/** Longest side of an overview, in pixels. */
const OVERVIEW_SIDE = 1024;

export class Scene {
  private constructor(
    readonly raster: Raster,
    readonly band: number,
    private readonly validity: Validity,
    private readonly ends: Ends,
    private readonly zeroRuns: boolean,
    private readonly samples: Float32Array,
    readonly overview: Overview,
    /** Stored value that looks like undeclared nodata; null: none. */
    readonly suspect: number | null,
  ) {}

  /** Read a scene once, for its sample, its overview and its border. */
  static async scan(
    raster: Raster,
    band: number,
    nodata: number | null,
    onProgress: (share: number) => void = () => {},
  ): Promise<Scene> {
    const validity = new Validity(raster, band, nodata);
    const { height, width } = raster;
    let ends = new Ends(height, validity.zero, validity.zeroIsBorder);
    const step = Math.ceil(Math.max(height, width) / OVERVIEW_SIDE);
    const overview = emptyOverview(height, width, step);
    let suspect: number | null = null;
    let runs = 0;
    const read = async (bands: readonly Band[], spacing: number) => {
      const sample = new Sample(spacing);
      for (const { rows, cols } of bands) {
        const pixels = validity.apply(await raster.readStored(band, rows, [0, width]), width);
        ends.look(pixels, rows[0]);
        suspect ??= validity.suspect(pixels);
        if (!validity.zeroIsBorder) runs += longRuns(pixels.values.length, width, (at) => pixels.valid[at] === 1 && pixels.values[at] === validity.zero);
        decimate(pixels, rows[0], overview);
        for (const range of cols) sample.add(pixels, rows, range);
        onProgress(rows[1] / height);
      }
      return sample;
    };
    let bands = bandsOf(height, width, raster.block);
    let sample = await read(bands, gridStep(covered(bands)));
    if (sample.size < SAMPLE_LEAST && covered(bands) < height * width) {
      bands = bandsOf(height, width, raster.block, true);
      ends = new Ends(height, validity.zero, validity.zeroIsBorder);
      sample = await read(bands, gridStep(covered(bands)));
    }
    if (sample.size < Math.min(sample.valid, SAMPLE_LEAST)) sample = await read(bands, gridStep(sample.valid));
    const values = sample.values();
    const zero = validity.zero;
    const others = zero === null ? values : values.filter((value) => value !== zero);
    // Only dB are below 0, and in dB no run of pixels has exactly one value.
    const inDb = zero !== null && others.length > 0 && percentile(others.slice().sort(), 50) < 0;
    const zerosOut = zero !== null && (ends.known || (inDb && runs > 0));
    return new Scene(raster, band, validity, ends, inDb, zerosOut ? others : values, overview, suspect);
  }

  private zeroIsNodata(unit: Unit): boolean {
    if (unit === "power" || unit === "amplitude") return !this.raster.declares;
    return unit === "dn";
  }

  /** Valid values on a regular grid; of the whole scene, in `unit` (null: before it is known). */
  sample(unit: Unit | null): Float32Array {
    return unit && this.zeroIsNodata(unit) ? this.samples.filter((value) => value !== 0) : this.samples;
  }

  /** Read a rectangle: values in the unit, and validity. */
  async read(area: Area, unit: Unit): Promise<Pixels> {
    const [first, stop] = area.cols;
    // Runs are recognised by their length: read beyond the rectangle those that it cuts.
    const cols = [Math.max(0, first - LEAST_RUN), Math.min(this.raster.width, stop + LEAST_RUN)] as const;
    const width = cols[1] - cols[0];
    const pixels = this.validity.apply(await this.raster.readStored(this.band, area.rows, cols), width);
    this.mask(pixels, area.rows[0], cols[0], unit);
    return cropped(pixels, first - cols[0], stop - first);
  }

  private mask({ values, valid, width }: Pixels, row: number, col: number, unit: Unit): void {
    const { zero } = this.validity;
    const clear = (first: number, stop: number) => {
      values.fill(0, Math.max(0, first), stop);
      valid.fill(0, Math.max(0, first), stop);
    };
    if (zero !== null && this.zeroRuns) {
      const was = valid.slice();
      longRuns(values.length, width, (at) => was[at] === 1 && values[at] === zero, clear);
    }
    const known = this.ends.known;
    for (let y = 0; zero !== null && y * width < values.length; y++) {
      const left = this.ends.border(0, row + y, known) - col;
      const right = this.raster.width - this.ends.border(1, row + y, known) - col;
      if (left > 0) clear(y * width, y * width + Math.min(left, width));
      if (right < width) clear(y * width + Math.max(right, 0), (y + 1) * width);
    }
    // Single zeros stay valid: noise removal leaves power of 0, and shadows DN of 0.
    if (this.zeroIsNodata(unit)) longRuns(values.length, width, (at) => values[at] === 0, clear);
  }
}

/** Valid values of every `step`-th row and column. */
class Sample {
  valid = 0;
  size = 0;
  private readonly parts: Float32Array[] = [];

  constructor(private readonly step: number) {}

  add({ values, valid, width }: Pixels, rows: readonly [number, number], cols: readonly [number, number]): void {
    const { step } = this;
    const part = new Float32Array(Math.ceil((rows[1] - rows[0]) / step) * Math.ceil((cols[1] - cols[0]) / step));
    let count = 0;
    for (let row = rows[0]; row < rows[1]; row++) {
      const from = (row - rows[0]) * width;
      for (let at = from + cols[0]; at < from + cols[1]; at++) this.valid += valid[at];
      if (row % step) continue;
      for (let col = Math.ceil(cols[0] / step) * step; col < cols[1]; col += step) {
        if (valid[from + col]) part[count++] = values[from + col];
      }
    }
    this.parts.push(part.subarray(0, count));
    this.size += count;
  }

  values(): Float32Array {
    const all = new Float32Array(this.size);
    let at = 0;
    for (const part of this.parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }
}

function emptyOverview(height: number, width: number, step: number): Overview {
  const size = { height: Math.ceil(height / step), width: Math.ceil(width / step) };
  const pixels = size.height * size.width;
  return { step, ...size, values: new Float32Array(pixels), valid: new Uint8Array(pixels) };
}

function decimate({ values, valid, width }: Pixels, row: number, overview: Overview): void {
  const { step } = overview;
  const rows = values.length / width;
  for (let y = Math.ceil(row / step) * step - row; y < rows; y += step) {
    for (let x = 0; x < overview.width; x++) {
      const to = ((row + y) / step) * overview.width + x;
      overview.values[to] = values[y * width + x * step];
      overview.valid[to] = valid[y * width + x * step];
    }
  }
}

function cropped({ values, valid, width }: Pixels, first: number, columns: number): Pixels {
  if (columns === width) return { values, valid, width };
  const rows = values.length / width;
  const out = { values: new Float32Array(rows * columns), valid: new Uint8Array(rows * columns), width: columns };
  for (let y = 0; y < rows; y++) {
    out.values.set(values.subarray(y * width + first, y * width + first + columns), y * columns);
    out.valid.set(valid.subarray(y * width + first, y * width + first + columns), y * columns);
  }
  return out;
}
