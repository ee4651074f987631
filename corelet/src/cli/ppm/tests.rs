use super::*;

fn two_pixels(head: &str) -> Vec<u8> {
    [head.as_bytes(), &[255, 0, 0, 0, 0, 255]].concat()
}

#[test]
fn heads_with_blanks_and_comments_are_read() {
    for head in ["P6\n2 1\n255\n", "P6 2 1 255 ", "P6\n# made by a test\n2\n1\n# more\n255\n"] {
        let bytes = two_pixels(head);
        let expected = Picture { width: 2, height: 1, pixels: &[255, 0, 0, 0, 0, 255] };
        assert_eq!(parse(&bytes), Ok(expected), "{head:?}");
    }
}

#[test]
fn other_files_are_refused() {
    for head in
        ["P5\n2 1\n255\n", "P6\n2 1\n65535\n", "P6\n0 1\n255\n", "P6\n3 1\n255\n", "P6\n99999 99999\n255\n", "P6\n2", "P6\nx 1\n255\n", ""]
    {
        let bytes = two_pixels(head);
        assert!(parse(&bytes).is_err(), "{head:?}");
    }
}

#[test]
fn the_png_shows_the_same_picture() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("a.ppm"), folder.path().join("a.png"));
    std::fs::write(&input, two_pixels("P6\n2 1\n255\n")).unwrap();
    convert(&input, &output).unwrap();
    let mut reader = png::Decoder::new(File::open(&output).unwrap()).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.height, info.color_type), (2, 1, png::ColorType::Rgb));
    assert_eq!(pixels, [255, 0, 0, 0, 0, 255]);
}

#[test]
fn a_missing_file_is_named() {
    let error = convert(Path::new("/nonexistent/x.ppm"), Path::new("/nonexistent/y.png")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read /nonexistent/x.ppm");
}
