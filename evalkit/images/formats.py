"""Which files are images: by their first bytes, and by their endings where the bytes say nothing.

The sources list what this module takes for an image; decoding, which comes after, reads it or says why it cannot.
"""

# Endings of image files. A file with one of them that cannot be read is skipped and named, whatever it holds.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jxl"),
    *(".avif", ".avifs", ".heic", ".heif", ".hif", ".qoi", ".tga", ".ico", ".pcx", ".psd", ".svg", ".eps"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".exr", ".hdr", ".dds"),
)
USUAL = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
HEAD = 32  # bytes that tell a format
# Read where this Pillow can. No EPS (it would start Ghostscript), and no format that data sets do not use.
READ = (
    *("JPEG", "PNG", "BMP", "DIB", "GIF", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF", "HEIF", "JXL"),
    *("QOI", "ICO", "PCX", "SGI"),
)
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"crx ",), "CR3"),
}
_STARTS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"qoif": "QOI",
    b"8BPS": "PSD",
    b"\x01\xda": "SGI",
    b"\0\0\x01\0": "ICO",
    b"\x76\x2f\x31\x01": "EXR",
    b"#?RADIANCE": "HDR",
    b"DDS ": "DDS",
    b"%!PS-Adobe": "EPS",
    b"<svg": "SVG",
}


def format_of(head: bytes) -> str:
    """The image format that the first HEAD bytes of a file tell, or an empty string."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return next((name for brand, name in _BRANDS.items() if head[8:12] == brand or brand in head[16:]), "")
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "BMP"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in b" \t\r\n":
        return "PPM"
    return next((name for start, name in _STARTS.items() if head.startswith(start)), "")


def has_image_name(name: str) -> bool:
    """Whether a file's name ends like that of an image."""
    return name.lower().endswith(EXTENSIONS)
