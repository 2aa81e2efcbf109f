/** What the server tells about the files, and the values of a pixel. */

export type Size = readonly [number, number];

export interface Tiled {
  name: string;
  tiles: string;
}

export interface Mosaic extends Tiled {
  /** Address of the file, where it can be read by ranges. */
  file: string | null;
  mask: string;
  difference: string | null;
  /** Factor by which the difference is brighter. */
  gain: number;
  provenance: [string, string][];
}

export interface WindowGrid {
  window: number;
  overlap: number;
  rows: number[];
  cols: number[];
}

export interface PageData {
  title: string;
  note: string;
  shape: Size;
  /** Height and width of each level, the finest first. */
  shapes: Size[];
  tile: number;
  radar: (Tiled & { stretch: string })[];
  unit: string | null;
  mosaics: Mosaic[];
  truth: (Tiled & { note: string }) | null;
  /** Size of the picture and of a pixel, as text. */
  size: string;
  /** Width of a pixel in metres. */
  metres: number | null;
  georeference: string;
  grid: WindowGrid | null;
  gridNote: string;
}

export interface Values {
  row: number;
  col: number;
  radar: (number | null)[];
  mosaics: (number[] | null)[];
  truth: number[] | null;
  map: [number, number] | null;
  lonlat: [number, number] | null;
}

export interface State {
  progress: number;
  error: string;
}

/** Fetch JSON from the server; an answer other than 200 is an error with the server's text. */
export async function fetchJson<T>(address: string, signal?: AbortSignal): Promise<T> {
  const response = await fetch(address, { signal });
  if (!response.ok) throw new Error(await response.text());
  return (await response.json()) as T;
}
