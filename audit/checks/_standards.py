"""What several checks answer to: ids of MITRE ATLAS, OWASP, the NIST AI RMF and the EU AI Act."""

from __future__ import annotations

ADVERSARIAL_INPUTS = (
    "MITRE ATLAS AML.T0043",
    "MITRE ATLAS AML.T0015",
    "OWASP ML01:2023",
    "NIST AI RMF MEASURE 2.7",
    "EU AI Act Art. 15(5)",
)
"""Inputs made to be answered wrongly."""
TRANSPARENCY = ("NIST AI RMF MEASURE 2.9", "EU AI Act Art. 13(1)")
"""Answers that their users can interpret."""
