"""A page in the browser: try pruning on an image, see where ids point, look through the samples of a stored run.

`asking` runs the model and knows no page, `stored` reads results, `rendering` makes markup of what both give, `page`
lays it out with gradio, and `serving` starts the server. gradio is the extra `app`; only `quiet` imports it.
"""
