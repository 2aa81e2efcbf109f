/** Open a file that a visitor gives: a GeoTIFF or a PNG. */

import { decode } from "fast-png";
import { openGeoTiff, refuseColour } from "./geotiff";
import type { Raster } from "./raster";
import { parseMetadata } from "./tags";

export async function openRaster(file: Blob, name: string): Promise<Raster> {
  const head = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  const is = (...bytes: number[]) => bytes.every((byte, at) => head[at] === byte);
  if (is(0x89, 0x50, 0x4e, 0x47)) return openPng(file, name);
  if (is(0x49, 0x49) || is(0x4d, 0x4d)) return openGeoTiff(file, name);
  const remedy = is(0x50, 0x4b) ? "products and archives are read by sar2opt-scene" : "give a GeoTIFF or a PNG";
  throw new Error(`${name}: is neither a GeoTIFF nor a PNG: ${remedy}`);
}

async function openPng(file: Blob, name: string): Promise<Raster> {
  const { width, height, data, depth, channels, palette, transparency } = decode(await file.arrayBuffer());
  if (palette) throw new Error(`${name}: has a colour palette, so its values are not grey levels: convert it to grey`);
  if (depth !== 8 && depth !== 16) throw new Error(`${name}: has ${depth} bits: convert it to 8 or 16 bits`);
  const alpha = channels % 2 === 0 ? channels - 1 : null;
  const nodata = channels === 1 && transparency ? transparency[0] : null;
  const cut = (channel: number, rows: readonly [number, number], cols: readonly [number, number]) => {
    const columns = cols[1] - cols[0];
    const out = new Float32Array((rows[1] - rows[0]) * columns);
    for (let at = 0; at < out.length; at++) {
      const row = rows[0] + Math.floor(at / columns);
      out[at] = data[(row * width + cols[0] + (at % columns)) * channels + channel];
    }
    return out;
  };
  const raster: Raster = {
    name,
    height,
    width,
    dtype: depth === 8 ? "uint8" : "uint16",
    block: [1, width],
    bands: [parseMetadata("").band(0)],
    tags: new Map(),
    nodata,
    declares: nodata !== null || alpha !== null,
    georeference: null,
    readStored: async (band, rows, cols) => ({
      values: cut(band, rows, cols),
      mask: alpha === null ? null : cut(alpha, rows, cols),
    }),
  };
  if (channels >= 3) await refuseColour(raster);
  return raster;
}
