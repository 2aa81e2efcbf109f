/** Texts of a raster: GDAL's metadata XML, band names, and tags of the georeference. */

/** Tags of a GeoTIFF's georeference, as stored. */
export interface Georeference {
  readonly pixelScale: readonly number[] | null;
  readonly tiePoints: readonly number[] | null;
  readonly transformation: readonly number[] | null;
  readonly geoKeys: readonly number[] | null;
  readonly geoDoubles: readonly number[] | null;
  readonly geoAscii: string | null;
}

/** What the file says about a band. */
export interface BandTags {
  /** Index of the sample, from 0. */
  readonly index: number;
  readonly description: string;
  readonly unit: string;
  readonly scale: number;
  readonly offset: number;
  readonly tags: ReadonlyMap<string, string>;
}

export interface Metadata {
  readonly file: ReadonlyMap<string, string>;
  band(index: number): BandTags;
}

const ENTITIES: Record<string, string> = { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'" };
const plain = (text: string) => text.replace(/&(lt|gt|amp|quot|apos);/g, (_, name: string) => ENTITIES[name]);

/** Parse the XML of the TIFF tag GDAL_METADATA; workers have no DOMParser. */
export function parseMetadata(xml: string): Metadata {
  const items = [...xml.matchAll(/<Item\s+([^>]*)>([^<]*)<\/Item>/g)].map(([, attributes, value]) => {
    const of = (name: string) => plain(new RegExp(`\\b${name}="([^"]*)"`).exec(attributes)?.[1] ?? "");
    return { name: of("name"), sample: of("sample"), role: of("role"), domain: of("domain"), value: plain(value) };
  });
  const own = items.filter((item) => item.domain === "");
  const tagsOf = (sample: string) =>
    new Map(own.filter((item) => item.sample === sample && !item.role).map((item) => [item.name, item.value]));
  return {
    file: tagsOf(""),
    band(index) {
      const with_ = (role: string) => own.find((item) => item.sample === String(index) && item.role === role)?.value;
      return {
        index,
        description: with_("description") ?? "",
        unit: with_("unittype") ?? "",
        scale: Number(with_("scale") ?? 1),
        offset: Number(with_("offset") ?? 0),
        tags: tagsOf(String(index)),
      };
    },
  };
}

const POLARISATIONS = /(?<![A-Z])(?:VV|VH|HH|HV)+(?![A-Z])/g;

/** Polarisations that texts name, without repetition. */
export function polarisationsIn(texts: Iterable<string>): string[] {
  const words = [...texts].flatMap((text) => [...text.matchAll(POLARISATIONS), ...text.toUpperCase().matchAll(POLARISATIONS)]);
  return [...new Set(words.flatMap(([word]) => word.match(/VV|VH|HH|HV/g) ?? []))].sort();
}

/** Band that is taken unless the user chooses another: the model's preferred polarisation; null: the user must choose. */
export function preferredBand(bands: readonly BandTags[], wanted: readonly string[]): number | null {
  if (bands.length === 1) return bands[0].index;
  for (const polarisation of wanted) {
    const found = bands.filter((band) => {
      const named = polarisationsIn([band.description, ...band.tags.values()]);
      return named.length === 1 && named[0] === polarisation;
    });
    if (found.length === 1) return found[0].index;
  }
  return null;
}
