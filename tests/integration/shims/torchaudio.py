"""Stands where torchaudio would: can be imported, and has nothing."""
