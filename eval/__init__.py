"""Honest head-to-head benchmark of optical-SAR matchers, run from a checkout as ``python -m eval``.

Convention: pixel centres at integers, x before y, origin top-left; every matrix is 3x3 float64, image0 -> image1.
"""
