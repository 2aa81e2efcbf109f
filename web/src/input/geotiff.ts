/** Read GeoTIFF files with geotiff.js. */

import { fromBlob, type GeoTIFFImage } from "geotiff";
import type { Raster, Stored } from "./raster";
import { parseMetadata, type Georeference } from "./tags";

const OVERVIEW = 1;
const MASK = 4;
const KINDS: Record<number, string> = { 1: "uint", 2: "int", 3: "float" };
const COMPLEX = [5, 6];
const RGB = 2;
const PALETTE = 3;

export async function openGeoTiff(file: Blob, name: string): Promise<Raster> {
  const tiff = await readable(name, fromBlob(file));
  const image = await readable(name, tiff.getImage());
  const { width, height, masks } = { width: image.getWidth(), height: image.getHeight(), masks: await masksOf(tiff, name) };
  const format = image.getSampleFormat();
  if (COMPLEX.includes(format)) throw new Error(`${name}: has complex values (SLC): detect and multilook it first`);
  const dtype = `${KINDS[format] ?? "unknown"}${image.getBitsPerSample()}`;
  if (!/^(u?int(8|16|32)|float(32|64))$/.test(dtype)) throw new Error(`${name}: has values of type ${dtype}: convert it to float32`);
  const photometric = Number(await tag(image, "PhotometricInterpretation"));
  if (photometric === PALETTE) throw new Error(`${name}: has a colour palette, so its values are not grey levels: convert it to grey`);
  const xml = String((await tag(image, "GDAL_METADATA")) ?? "");
  const metadata = parseMetadata(xml);
  const extra = Array.from(((await tag(image, "ExtraSamples")) as ArrayLike<number> | undefined) ?? [], Number);
  const samples = image.getSamplesPerPixel();
  const alpha = extra.findIndex((kind) => kind === 1 || kind === 2);
  const alphaAt = alpha < 0 ? null : samples - extra.length + alpha;
  const mask = masks.find((page) => page.getWidth() === width && page.getHeight() === height) ?? null;
  const description = await tag(image, "ImageDescription");
  const tags = new Map(metadata.file);
  if (description) tags.set("TIFFTAG_IMAGEDESCRIPTION", String(description).replace(/\0+$/, ""));
  const bands = Array.from({ length: samples }, (_, index) => metadata.band(index)).filter(({ index }) => index !== alphaAt);
  const nodata = image.getGDALNoData();
  const readBand = async (page: GeoTIFFImage, sample: number, rows: readonly [number, number], cols: readonly [number, number]) => {
    const found = page.readRasters({ window: [cols[0], rows[0], cols[1], rows[1]], samples: [sample], interleave: false });
    return (await readable(name, found))[0] as ArrayLike<number>;
  };
  const raster: Raster = {
    name,
    height,
    width,
    dtype,
    block: [image.isTiled ? image.getTileHeight() : image.getBlockHeight(0), image.isTiled ? image.getTileWidth() : width],
    bands,
    tags,
    nodata: nodata !== null && !Number.isNaN(nodata) ? nodata : null,
    declares: nodata !== null || mask !== null || alphaAt !== null,
    georeference: await georeferenceOf(image),
    async readStored(band, rows, cols): Promise<Stored> {
      const values = await readBand(image, band, rows, cols);
      if (mask) return { values, mask: await readBand(mask, 0, rows, cols) };
      return { values, mask: alphaAt === null ? null : await readBand(image, alphaAt, rows, cols) };
    },
  };
  if (photometric === RGB && samples >= 3) {
    await refuseColour(raster);
    return { ...raster, bands: bands.slice(0, 1) };
  }
  return raster;
}

/** Name file and remedy where a library cannot read. */
async function readable<T>(name: string, reading: Promise<T>): Promise<T> {
  try {
    return await reading;
  } catch (error) {
    throw new Error(`${name}: cannot be read (${(error as Error).message}): the file is truncated or damaged, fetch it again`);
  }
}

async function tag(image: GeoTIFFImage, name: string): Promise<unknown> {
  const directory = image.fileDirectory;
  return directory.hasTag(name as never) ? directory.loadValue(name as never) : undefined;
}

/** Return the masks of a file; other pages than overviews and masks are refused, as their meaning is unknown. */
async function masksOf(tiff: Awaited<ReturnType<typeof fromBlob>>, name: string): Promise<GeoTIFFImage[]> {
  const masks: GeoTIFFImage[] = [];
  for (let page = 1; page < (await tiff.getImageCount()); page++) {
    const image = await tiff.getImage(page);
    const kind = Number((await tag(image, "NewSubfileType")) ?? 0);
    if (kind & MASK) masks.push(image);
    else if (!(kind & OVERVIEW)) throw new Error(`${name}: has several pages: give a file of one page`);
  }
  return masks;
}

async function georeferenceOf(image: GeoTIFFImage): Promise<Georeference | null> {
  const numbers = async (name: string) => {
    const value = (await tag(image, name)) as ArrayLike<number> | undefined;
    return value === undefined ? null : [...Array.from(value)];
  };
  const ascii = await tag(image, "GeoAsciiParams");
  const found: Georeference = {
    pixelScale: await numbers("ModelPixelScale"),
    tiePoints: await numbers("ModelTiepoint"),
    transformation: await numbers("ModelTransformation"),
    geoKeys: await numbers("GeoKeyDirectory"),
    geoDoubles: await numbers("GeoDoubleParams"),
    geoAscii: ascii === undefined ? null : String(ascii).replace(/\0+$/, ""),
  };
  return found.tiePoints || found.transformation || found.geoKeys ? found : null;
}

/** Check that a picture is grey: red, green and blue are the same. */
export async function refuseColour(raster: Raster): Promise<void> {
  for (let k = 0; k < 17; k++) {
    const row = Math.floor((k * (raster.height - 1)) / 16);
    const [red, green, blue] = await Promise.all([0, 1, 2].map((band) => raster.readStored(band, [row, row + 1], [0, raster.width])));
    for (let x = 0; x < raster.width; x++) {
      if (red.values[x] !== green.values[x] || red.values[x] !== blue.values[x]) {
        throw new Error(`${raster.name}: is a colour picture (red, green, blue differ), not SAR: give a SAR raster`);
      }
    }
  }
}
