#!/usr/bin/env python3
"""Say what is installed, which backends are used, which data sets and weights are found, and how to mend what is not.

    tools/doctor.py            a table; exit status 1 if something essential is broken
    tools/doctor.py --json     the same for programs
"""

import argparse
import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def load_doctor() -> ModuleType:
    """The checks, loaded by their path: that `import dk_detr` fails may be the very thing to find out."""
    spec = importlib.util.spec_from_file_location("doctor_checks", ROOT / "dk_detr" / "commands" / "doctor.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main() -> int:
    """Print the report. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a list of findings as JSON")
    arguments = parser.parse_args()
    doctor = load_doctor()
    findings = doctor.examine()
    as_json = arguments.json
    print(json.dumps([asdict(finding) for finding in findings], indent=2) if as_json else doctor.report(findings))
    return 0 if doctor.is_healthy(findings) else 1


if __name__ == "__main__":
    sys.exit(main())
