"""The auditor: a pytest plugin that judges findings, keeps the ledger and writes the report.

The only part of caploc that knows pytest; it reads findings and makes none. The plugin is
``caploc.audit.plugin``.
"""
