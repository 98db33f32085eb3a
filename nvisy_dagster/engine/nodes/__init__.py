"""The task of each kind of node: read the inlet, call the component, write the outlet."""
