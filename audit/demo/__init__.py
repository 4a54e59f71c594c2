"""The demo: four real models on real data, trained or unpacked here, registered, audited, and held to the verdict expected of them."""
