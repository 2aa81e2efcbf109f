"""Everything that is read: rasters and Sentinel-1 products, their bands, units, validity and georeference."""
