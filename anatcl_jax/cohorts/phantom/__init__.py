"""The digital cohort: synthetic subjects whose anatomy is known, drawn as scans."""
