/** A raster as the page reads it, whatever its format. */

import type { BandTags, Georeference } from "./tags";

export interface Raster {
  readonly name: string;
  readonly height: number;
  readonly width: number;
  /** NumPy name of the stored type: uint8, uint16, float32 ... */
  readonly dtype: string;
  /** Height and width of the blocks in which it is stored. */
  readonly block: readonly [number, number];
  /** One entry per band that holds values. */
  readonly bands: readonly BandTags[];
  readonly tags: ReadonlyMap<string, string>;
  /** Nodata that the file declares; null: none (NaN is always invalid). */
  readonly nodata: number | null;
  /** Whether the file declares nodata or a mask. */
  readonly declares: boolean;
  /** GeoTIFF tags of its position on Earth; null: none. */
  readonly georeference: Georeference | null;
  /** Read stored values, float64 for types that float32 does not hold, else as stored. */
  readStored(band: number, rows: readonly [number, number], cols: readonly [number, number]): Promise<Stored>;
}

export interface Stored {
  readonly values: ArrayLike<number>;
  /** 0 where the file's mask or alpha says so; null: no mask. */
  readonly mask: ArrayLike<number> | null;
}

export type { BandTags, Georeference };
