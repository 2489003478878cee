#!/usr/bin/env python3
"""Prints the outcome of each test of a JUnit file, one a line, sorted."""

import sys
import xml.etree.ElementTree

for case in sorted(
    (test.get("name"), next((kind for kind in ("error", "failure", "skipped") if test.find(kind) is not None), "passed"))
    for test in xml.etree.ElementTree.parse(sys.argv[1]).getroot().iter("testcase")
):
    print(*case)
