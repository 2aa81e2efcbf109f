/** Write a picture as GeoTIFF: RGB in deflated strips, a mask, and the georeference of the file that it is from. */

import type { Georeference } from "../input/tags";

type Type = "ascii" | "short" | "long" | "double";
const CODE: Record<Type, number> = { ascii: 2, short: 3, long: 4, double: 12 };
const SIZE: Record<Type, number> = { ascii: 1, short: 2, long: 4, double: 8 };
type Entry = readonly [tag: number, type: Type, values: readonly number[]];

const ROWS_PER_STRIP = 128;
const DEFLATE = 8;

/** Move a georeference to an area's first row and column. */
export function shifted(georeference: Georeference, row: number, col: number): Georeference {
  const { tiePoints, transformation } = georeference;
  return {
    ...georeference,
    tiePoints: tiePoints && movedPoints(georeference, row, col),
    transformation:
      transformation &&
      transformation.map((value, k) => (k % 4 === 3 && k < 12 ? value + transformation[k - 3] * col + transformation[k - 2] * row : value)),
  };
}

function movedPoints({ tiePoints, pixelScale }: Georeference, row: number, col: number): number[] {
  const points = [...tiePoints!];
  for (let k = 0; k < points.length; k += 6) {
    if (pixelScale && points.length === 6) {
      points[k + 3] += col * pixelScale[0];
      points[k + 4] -= row * pixelScale[1];
    } else {
      points[k] -= col;
      points[k + 1] -= row;
    }
  }
  return points;
}

function entriesOf(georeference: Georeference | null): Entry[] {
  if (!georeference) return [];
  const { pixelScale, tiePoints, transformation, geoKeys, geoDoubles, geoAscii } = georeference;
  const entries: (Entry | null)[] = [
    pixelScale && [33550, "double", pixelScale],
    tiePoints && [33922, "double", tiePoints],
    transformation && [34264, "double", transformation],
    geoKeys && [34735, "short", geoKeys],
    geoDoubles && [34736, "double", geoDoubles],
    geoAscii === null ? null : [34737, "ascii", ascii(geoAscii)],
  ];
  return entries.filter((entry) => entry !== null);
}

const ascii = (text: string): number[] => [...new TextEncoder().encode(text), 0];

async function deflated(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/**
 * Write RGBA bytes (height, width, 4) as a GeoTIFF of three bands; where alpha is 0 anywhere, with a mask.
 *
 * @param georeference Position of the picture's first pixel, see `shifted`.
 * @param software Text of the tag Software.
 */
export async function writeGeoTiff(
  rgba: Uint8ClampedArray,
  height: number,
  width: number,
  georeference: Georeference | null,
  software: string,
): Promise<Blob> {
  const size: Entry[] = [
    [256, "long", [width]],
    [257, "long", [height]],
    [259, "short", [DEFLATE]],
    [278, "long", [ROWS_PER_STRIP]],
    [284, "short", [1]],
  ];
  const picture = await strips(height, (row) => {
    const rgb = new Uint8Array(3 * width);
    for (let x = 0; x < width; x++) for (let k = 0; k < 3; k++) rgb[3 * x + k] = rgba[4 * (row * width + x) + k];
    return rgb;
  });
  const pages: Page[] = [
    {
      strips: picture,
      entries: [...size, [258, "short", [8, 8, 8]], [262, "short", [2]], [277, "short", [3]], [305, "ascii", ascii(software)], ...entriesOf(georeference)],
    },
  ];
  if (rgba.some((value, at) => at % 4 === 3 && value === 0)) {
    const mask = await strips(height, (row) => {
      const bits = new Uint8Array(Math.ceil(width / 8));
      for (let x = 0; x < width; x++) if (rgba[4 * (row * width + x) + 3]) bits[x >> 3] |= 128 >> (x & 7);
      return bits;
    });
    pages.push({ strips: mask, entries: [[254, "long", [4]], ...size, [258, "short", [1]], [262, "short", [4]], [277, "short", [1]]] });
  }
  return assembled(pages);
}

interface Page {
  readonly strips: Uint8Array<ArrayBuffer>[];
  readonly entries: Entry[];
}

async function strips(height: number, row: (at: number) => Uint8Array): Promise<Uint8Array<ArrayBuffer>[]> {
  const done: Uint8Array<ArrayBuffer>[] = [];
  for (let start = 0; start < height; start += ROWS_PER_STRIP) {
    const rows = Array.from({ length: Math.min(ROWS_PER_STRIP, height - start) }, (_, k) => row(start + k));
    const bytes = new Uint8Array(rows.length * rows[0].length);
    rows.forEach((part, k) => bytes.set(part, k * part.length));
    done.push(await deflated(bytes));
  }
  return done;
}

/** Put header, directories and strips together: little-endian, directories after the data that they refer to. */
function assembled(pages: readonly Page[]): Blob {
  const parts: Uint8Array<ArrayBuffer>[] = [];
  let end = 8;
  const append = (bytes: Uint8Array<ArrayBuffer>): number => {
    const at = end;
    parts.push(bytes);
    end += bytes.length;
    if (end % 2) {
      parts.push(new Uint8Array(1)); // values begin at even offsets
      end += 1;
    }
    return at;
  };
  const header = new DataView(new ArrayBuffer(8));
  [0x49, 0x49, 42].forEach((byte, at) => header.setUint8(at, byte));
  let link: [DataView, number] = [header, 4];
  for (const { strips: data, entries } of pages) {
    const offsets = data.map(append);
    const all: Entry[] = [...entries, [273, "long", offsets], [279, "long", data.map((strip) => strip.length)]];
    all.sort((a, b) => a[0] - b[0]);
    const directory = new DataView(new ArrayBuffer(6 + 12 * all.length));
    directory.setUint16(0, all.length, true);
    all.forEach(([tag, type, values], k) => {
      const bytes = packed(type, values);
      const at = 2 + 12 * k;
      directory.setUint16(at, tag, true);
      directory.setUint16(at + 2, CODE[type], true);
      directory.setUint32(at + 4, values.length, true);
      if (bytes.length <= 4) bytes.forEach((byte, n) => directory.setUint8(at + 8 + n, byte));
      else directory.setUint32(at + 8, append(bytes), true);
    });
    const start = append(new Uint8Array(directory.buffer));
    link[0].setUint32(link[1], start, true);
    link = [directory, 2 + 12 * all.length];
  }
  return new Blob([new Uint8Array(header.buffer), ...parts], { type: "image/tiff" });
}

function packed(type: Type, values: readonly number[]): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(SIZE[type] * values.length));
  values.forEach((value, k) => {
    if (type === "ascii") view.setUint8(k, value);
    else if (type === "short") view.setUint16(2 * k, value, true);
    else if (type === "long") view.setUint32(4 * k, value, true);
    else view.setFloat64(8 * k, value, true);
  });
  return new Uint8Array(view.buffer);
}
