"""From raw T1-weighted scans to maps in MNI space: steps, checks, and the files they leave."""
