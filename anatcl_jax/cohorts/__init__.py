"""What lies on a researcher's disk: volumes, tables of people, morphometry, one reader a layout."""
